"""Every script: each carries out in one step of Redis what two round trips would race about."""

from typing import Final

# KEYS: mode, last valid mode; ARGV[1] new mode. Returns the previous value, so that a switch and what it replaced are one step;
# none where the key was of another type, which is no mode either. A full Redis refuses a script whose first write needs memory,
# hence DEL: a switch may be what empties the queues.
SET_MODE: Final = """
local previous = redis.pcall('GET', KEYS[1])
redis.call('DEL', KEYS[1])
redis.call('MSET', KEYS[1], ARGV[1], KEYS[2], ARGV[1])
return type(previous) == 'string' and previous
"""

# KEYS: mode, last valid mode. Returns what the mode key holds, its type where that is not a string, and the last valid mode.
READ_MODE: Final = """
local raw, kind = redis.pcall('GET', KEYS[1]), false
if type(raw) == 'table' then raw, kind = false, redis.call('TYPE', KEYS[1]).ok end
return {raw, kind, redis.call('GET', KEYS[2])}
"""

# KEYS: mode, last valid mode; ARGV: what the mode key held, the mode that this means. Nothing is remembered of a word that has
# been replaced since: whoever reads the next one remembers that.
REMEMBER_MODE: Final = """
if redis.pcall('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[2], ARGV[2]) end
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
# `since` of a replica, and of the engine, moves only when its state changes. The engine is what its best replica is.
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
if best == nil then return redis.call('DEL', KEYS[1]) end
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

# KEYS[1] Celery's key of a task's result; ARGV: its JSON, seconds that it lives (0: for ever). A success that stands there stays.
# Who waits for the result is told, as Celery does it. Returns 1 if it was written.
STORE_RESULT: Final = """
local found = redis.call('GET', KEYS[1])
if found then
  local read, held = pcall(cjson.decode, found)
  if read and held.status == 'SUCCESS' then return 0 end
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
for i = 2, #KEYS do
  redis.call('HSETNX', KEYS[i], ARGV[2 * i - 1], ARGV[2 * i])
  redis.call('PEXPIRE', KEYS[i], ARGV[2])
end
return 1
"""
