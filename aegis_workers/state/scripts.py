"""Every script: each carries out in one step of Redis what two round trips would race about."""

from typing import Final

# How long the history of switches is.
SWITCHES: Final = 200

# KEYS: mode, last valid mode, history of switches, engine hashes; ARGV: new mode, who switches. Returns the previous value, so
# that a switch and what it replaced are one step; none where the key was of another type, which is no mode either. A full Redis
# refuses a script whose first write needs memory, hence DEL: a switch may be what empties the queues. Who chooses a mode, be it
# the same one, asks the controller to try again what failed: the engines' hashes say when. A mode that somebody wrote by hand and
# nobody has read yet is noted first. The history keeps no switch from being made, whatever stands in its place.
SET_MODE: Final = f"""
local previous = redis.pcall('GET', KEYS[1])
local before = redis.call('GET', KEYS[2])
redis.call('DEL', KEYS[1])
redis.call('MSET', KEYS[1], ARGV[1], KEYS[2], ARGV[1])
local time = redis.call('TIME')
for i = 4, #KEYS do redis.call('HSET', KEYS[i], 'asked', string.format('%d.%06d', time[1], time[2])) end
local word = type(previous) == 'string' and string.lower(string.match(previous, '^%s*(.-)%s*$'))
if (word == 'vllm' or word == 'ollama' or word == 'auto') and word ~= before then
  redis.pcall('XADD', KEYS[3], 'MAXLEN', '{SWITCHES}', '*', 'mode', word, 'previous', before or '', 'source', 'raw')
  before = word
end
local replaced = previous and before or ''
redis.pcall('XADD', KEYS[3], 'MAXLEN', '{SWITCHES}', '*', 'mode', ARGV[1], 'previous', replaced, 'source', ARGV[2])
return type(previous) == 'string' and previous
"""

# KEYS: mode, last valid mode, history of switches; ARGV[1] the configured mode. Writes it where there is none; returns whether.
DEFAULT_MODE: Final = f"""
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('MSET', KEYS[1], ARGV[1], KEYS[2], ARGV[1])
redis.pcall('XADD', KEYS[3], 'MAXLEN', '{SWITCHES}', '*', 'mode', ARGV[1], 'previous', '', 'source', 'default')
return 1
"""

# KEYS: mode, last valid mode. Returns what the mode key holds, its type where that is not a string, and the last valid mode.
READ_MODE: Final = """
local raw, kind = redis.pcall('GET', KEYS[1]), false
if type(raw) == 'table' then raw, kind = false, redis.call('TYPE', KEYS[1]).ok end
return {raw, kind, redis.call('GET', KEYS[2])}
"""

# KEYS: mode, last valid mode, history of switches; ARGV: what the mode key held, the mode that this means. Nothing is remembered
# of a word that has been replaced since: whoever reads the next one remembers that. Our own writers remember theirs, so it was
# written by hand, and the first of all readers to come here notes it.
REMEMBER_MODE: Final = f"""
local before = redis.call('GET', KEYS[2])
if before == ARGV[2] or redis.pcall('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
redis.pcall('XADD', KEYS[3], 'MAXLEN', '{SWITCHES}', '*', 'mode', ARGV[2], 'previous', before or '', 'source', 'raw')
return 1
"""

# KEYS[1] lease, ARGV[1] token, ARGV[2] TTL in ms. Returns 1 while the token holds the lease; takes it where nobody does.
HOLD_LEASE: Final = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

# KEYS[1] lease, ARGV[1] token. Gives the lease back if the token still holds it.
DROP_LEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""

# KEYS[1] engine hash; ARGV: now in s, '1' if every replica was looked at, then url and JSON {state, reason, …} for each replica.
# `since` of a replica, and of the engine, moves only when its state changes. The engine is what its best replica is; where there
# is none, nothing is known of it. What the controller writes into the hash stays in any case.
REPORT_ENGINE: Final = """
local rank = {unavailable = 0, starting = 1, ready = 2}
local now = ARGV[1]
local kept = {}
for i = 3, #ARGV, 2 do
  local field = 'replica:' .. ARGV[i]
  local found = cjson.decode(ARGV[i + 1])
  local before = redis.call('HGET', KEYS[1], field)
  found.since = tonumber(now)
  if before then
    before = cjson.decode(before)
    if before.state == found.state then found.since = before.since end
  end
  redis.call('HSET', KEYS[1], field, cjson.encode(found))
  kept[field] = true
end
local best = nil
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if string.sub(all[i], 1, 8) == 'replica:' then
    if ARGV[2] == '1' and not kept[all[i]] then
      redis.call('HDEL', KEYS[1], all[i], 'breaker:' .. string.sub(all[i], 9))
    else
      local replica = cjson.decode(all[i + 1])
      if best == nil or rank[replica.state] > rank[best.state] then best = replica end
    end
  end
end
if best == nil then return redis.call('HDEL', KEYS[1], 'state', 'since', 'reason', 'probed_at') end
if redis.call('HGET', KEYS[1], 'state') ~= best.state then
  redis.call('HSET', KEYS[1], 'state', best.state, 'since', now)
end
redis.call('HSET', KEYS[1], 'reason', best.reason)
if ARGV[2] == '1' then redis.call('HSET', KEYS[1], 'probed_at', now) end
return 1
"""

# KEYS: stream, writer; ARGV: writer token, TTL in ms. Returns 1 if this delivery may write. A stream that already holds text
# belongs to an earlier delivery: it is ended as interrupted, because appending a second answer would corrupt the first.
BEGIN_STREAM: Final = """
if redis.call('EXISTS', KEYS[1]) == 1 then
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
  if last[1][2][1] ~= 'end' then
    redis.call('SET', KEYS[2], 'interrupted', 'PX', ARGV[2])
    redis.call('XADD', KEYS[1], '*', 'end', '{"status":"interrupted"}')
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
  end
  return 0
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return 1
"""

# KEYS: stream, writer, reader; ARGV: writer token, TTL in ms, entry number, field, value. Returns -1 if another delivery took the
# stream over, else 1 while somebody reads it and 0 when nobody does. An empty field only asks. Entries carry the writer's own
# numbers, so that an append which was sent again after a lost connection is refused and not seen twice. Any other refusal is an
# error: a piece that a full Redis did not take would be missing from the answer.
APPEND_STREAM: Final = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return -1 end
if ARGV[4] ~= '' then
  local added = redis.pcall('XADD', KEYS[1], ARGV[3] .. '-0', ARGV[4], ARGV[5])
  if type(added) == 'table' and added.err and not string.find(added.err, 'equal or smaller', 1, true) then return added end
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return redis.call('EXISTS', KEYS[3])
"""

# KEYS: Celery's key of a task's result, workers that live; ARGV: its JSON, seconds that it lives (0: for ever), the recording
# worker ('': none). The first terminal state stays. Who waits for the result is told, as Celery does it. Returns 1 if it was
# written, 0 if an outcome stood there, -1 if the worker has been declared dead: its tasks are another's by now.
STORE_RESULT: Final = """
if ARGV[3] ~= '' and not redis.call('ZSCORE', KEYS[2], ARGV[3]) then return -1 end
local found = redis.call('GET', KEYS[1])
if found then
  local read, stands = pcall(cjson.decode, found)
  if read and type(stands) == 'table' then
    if stands.status == 'SUCCESS' or stands.status == 'FAILURE' or stands.status == 'REVOKED' then return 0 end
  end
end
redis.call('SET', KEYS[1], ARGV[1])
if ARGV[2] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
redis.call('PUBLISH', KEYS[1], ARGV[1])
return 1
"""

# KEYS: the living workers, then a task's answers for each entry; ARGV: worker, TTL in ms, then number and JSON for each entry.
# The first answer of a call stays. Nothing is written for a worker that was declared dead: another one asks for the same.
KEEP_ANSWERS: Final = """
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
local tasks = {}
for i = 2, #KEYS do
  redis.call('HSETNX', KEYS[i], ARGV[2 * i - 1], ARGV[2 * i])
  tasks[KEYS[i]] = true
end
for task in pairs(tasks) do redis.call('PEXPIRE', task, ARGV[2]) end
return 1
"""

_NOW_MS: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# KEYS: workers that live, their queues; ARGV: worker, its queue. From here on the worker lives, and may hold messages.
ENLIST_WORKER: Final = f"""{_NOW_MS}
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return now
"""

# KEYS: workers that live, their queues; ARGV: worker, its queue, ms without a sign of life that make a worker dead, the moment of
# the worker's last look (0: it may not judge), ms that may lie between two looks of a judge. Says that the worker lives, and
# declares dead whoever has been silent for too long. A look that was held up cannot judge: so were the others' signs of life.
# Returns whether the worker lives itself, now, whether it may trust its looks so far, who was declared dead, and which dead
# workers still hold messages. One that does not live, because Redis was emptied, may have taken some since: it is noted as dead.
LOOK_AT_WORKERS: Final = f"""{_NOW_MS}
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  redis.pcall('HSETNX', KEYS[2], ARGV[1], ARGV[2])
  return {{0, now, 0, {{}}, {{}}}}
end
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2])
local last = tonumber(ARGV[4])
local in_time = now - last <= tonumber(ARGV[5])
local dead = {{}}
if last > 0 and in_time then
  dead = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[3]))
  for _, id in ipairs(dead) do redis.call('ZREM', KEYS[1], id) end
end
local left = {{}}
if redis.call('HLEN', KEYS[2]) ~= redis.call('ZCARD', KEYS[1]) then
  for _, id in ipairs(redis.call('HKEYS', KEYS[2])) do
    if not redis.call('ZSCORE', KEYS[1], id) then left[#left + 1] = id end
  end
end
return {{1, now, (last == 0 or in_time) and 1 or 0, dead, left}}
"""

# KEYS: workers that live, what a worker holds, its queue; ARGV: the worker, '1' if it must live and '0' if it must be dead, the
# message as it is held, the end of the queue to which it goes ('': to none, it is done with), and as what. Returns 1, or 0 if it
# is not held any more, or -1 if the worker is not what it must be. The order makes room first: a full Redis does not refuse it.
SETTLE_MESSAGE: Final = """
local lives = redis.call('ZSCORE', KEYS[1], ARGV[1]) and '1' or '0'
if lives ~= ARGV[2] then return -1 end
if redis.call('LREM', KEYS[2], 1, ARGV[3]) == 0 then return 0 end
if ARGV[4] == 'front' then redis.call('RPUSH', KEYS[3], ARGV[5]) end
if ARGV[4] == 'back' then redis.call('LPUSH', KEYS[3], ARGV[5]) end
return 1
"""

# KEYS: workers that live, their queues, what the worker holds; ARGV: the worker, ms. Returns the latest message that it holds; or
# forgets the worker when it holds none. What stands in the place of its messages is no list, so that a process which was frozen
# in the middle of a pop, and continues, gets an error from Redis and no message that nobody would ever look for.
BURY_WORKER: Final = """
local kind = redis.call('TYPE', KEYS[3]).ok
if kind == 'list' then return redis.call('LINDEX', KEYS[3], 0) end
redis.call('SET', KEYS[3], 'gone', 'PX', ARGV[2])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return false
"""

# KEYS: a queue, then the lists on which producers put messages of other priorities; ARGV[1]: how many to move at most.
GATHER_PRIORITIES: Final = """
local left = tonumber(ARGV[1])
for i = 2, #KEYS do
  while left > 0 and redis.call('LMOVE', KEYS[i], KEYS[1], 'RIGHT', 'LEFT') do left = left - 1 end
end
return tonumber(ARGV[1]) - left
"""
