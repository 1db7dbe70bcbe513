"""The scripts of bulk jobs and of the controller that leads; the others are in `scripts`.

A full Redis refuses a script at its first write, if that is a command which needs memory, and lets everything through behind a
first write that needs none. So a script runs as a whole or not at all, and its first write decides: what takes memory begins with
a write that takes some; what frees it, or must be possible at any time, begins with one that deletes.
"""

from typing import Final

# KEYS: lock, last token; ARGV: name, TTL in ms, the token that the caller holds ('': none). Returns the token under which the
# caller leads, or 0 while another one does. The clock makes the token grow also where Redis has forgotten the last one.
LEAD: Final = """
local holder = redis.call('GET', KEYS[1])
if holder and (ARGV[3] == '' or holder ~= ARGV[3] .. ':' .. ARGV[1]) then return 0 end
if holder then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return tonumber(ARGV[3])
end
local time = redis.call('TIME')
local token = math.max((tonumber(redis.call('GET', KEYS[2])) or 0) + 1, time[1] * 1000 + math.floor(time[2] / 1000))
local written = string.format('%.0f', token)
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], written)
redis.call('SET', KEYS[1], written .. ':' .. ARGV[1], 'PX', ARGV[2])
return token
"""

# KEYS[1] lock; ARGV: name, token. Gives the lock back if they hold it.
RESIGN: Final = """
if redis.call('GET', KEYS[1]) == ARGV[2] .. ':' .. ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""

# KEYS[1] is the lock and ARGV[1] the token in every script of the leader. Each returns -1 to one that does not lead any more.
LEADS: Final = """
if string.match(redis.call('GET', KEYS[1]) or '', '^(%d+):') ~= ARGV[1] then return -1 end
"""

# Of the outcomes in ARGV, five words each: chunk, kind, status, JSON, totals. The first one of a chunk gets the next number. The
# time in its id tells it from another one of the same number, of which a Redis knows that lost its last writes.
_WRITE: Final = """
local function write(job, done, outcomes, first)
  local last = tonumber(redis.call('HGET', job, 'recorded'))
  local n, held = last, 0
  local time = redis.call('TIME')
  local stamp = string.format('-%.0f', time[1] * 1000000 + time[2])
  for from = first, #ARGV, 2500 do
    local bits = {}
    for i = from, math.min(from + 2499, #ARGV), 5 do
      local b = #bits
      bits[b + 1], bits[b + 2], bits[b + 3], bits[b + 4] = 'SET', 'u1', ARGV[i], '1'
    end
    for k, before in ipairs(redis.call('BITFIELD', done, unpack(bits))) do
      if before == 0 then
        local i = from + 5 * (k - 1)
        n = n + 1
        redis.call('XADD', outcomes, n .. stamp,
          'c', ARGV[i], 'k', ARGV[i + 1], 's', ARGV[i + 2], 'b', ARGV[i + 3], 't', ARGV[i + 4])
        held = held + #ARGV[i + 3] + #ARGV[i + 4]
      end
    end
  end
  local came, written = (#ARGV - first + 1) / 5, n - last
  if written > 0 then
    redis.call('HSET', job, 'recorded', n)
    redis.call('HINCRBY', job, 'held_bytes', held)
  end
  if written < came then redis.call('HINCRBY', job, 'doubled', came - written) end
  return written
end
"""

# A batch leaves the job's hash of batches, if it is there.
_FINISH: Final = """
local function finish(job, batches, id)
  local found = redis.call('HGET', batches, id)
  if not found then return end
  local batch = cjson.decode(found)
  redis.call('HDEL', batches, id)
  redis.call('HINCRBY', job, 'out_chunks', -batch.count)
  redis.call('HINCRBY', job, 'out_bytes', -batch.bytes)
end
"""

# KEYS: lock, job, batches, queue; ARGV: token, the number of the chunk from which on nothing was fed, what it is after this, the
# lost batch that these replace ('': none), then for each batch its id, its chunks as JSON, their number, bytes, and its message.
# Returns 0, or -1, -2 where the job is not in Redis, -3 where it is closing, -4 where it is not as expected: another feed came
# first, or the batch is not lost but finished.
FEED: Final = f"""{LEADS}{_FINISH}
local state, fed = unpack(redis.call('HMGET', KEYS[2], 'state', 'fed'))
if not state then return -2 end
if state ~= 'open' then return -3 end
if fed ~= ARGV[2] then return -4 end
if ARGV[4] ~= '' and redis.call('HEXISTS', KEYS[3], ARGV[4]) == 0 then return -4 end
local time = redis.call('TIME')
local at = string.format(',"at":%.0f}}', time[1] * 1000 + math.floor(time[2] / 1000))
local chunks, bytes = 0, 0
for i = 5, #ARGV, 5 do
  local batch = '{{"chunks":' .. ARGV[i + 1] .. ',"count":' .. ARGV[i + 2] .. ',"bytes":' .. ARGV[i + 3] .. at
  redis.call('HSET', KEYS[3], ARGV[i], batch)
  redis.call('LPUSH', KEYS[4], ARGV[i + 4])
  chunks, bytes = chunks + ARGV[i + 2], bytes + ARGV[i + 3]
end
if chunks > 0 then
  redis.call('HINCRBY', KEYS[2], 'out_chunks', chunks)
  redis.call('HINCRBY', KEYS[2], 'out_bytes', bytes)
end
if ARGV[3] ~= fed then redis.call('HSET', KEYS[2], 'fed', ARGV[3]) end
if ARGV[4] ~= '' then finish(KEYS[2], KEYS[3], ARGV[4]) end
return 0
"""

# KEYS: job, its done chunks, batches; ARGV: batch, then its chunks. Returns the job's state (none: it is not in Redis), the
# engine to which it keeps, 1 if the batch is one that was fed and is not finished, then 1 for each chunk that has an outcome.
BEGIN_BATCH: Final = """
local state, engine = unpack(redis.call('HMGET', KEYS[1], 'state', 'engine'))
local answer = {state, engine, redis.call('HEXISTS', KEYS[3], ARGV[1])}
for i = 2, #ARGV do answer[i + 2] = redis.call('GETBIT', KEYS[2], ARGV[i]) end
return answer
"""

# KEYS: workers that live, job, its done chunks, outcomes, batches; ARGV: the recording worker ('': none), how many batches end
# with this, their ids, then the outcomes as `_WRITE` has them. Returns how many were the first of their chunk; or -1 if the
# worker was declared dead, -2 where the job is not in Redis, -3 where it is closing: then nothing is written, but the batches
# end. Sent again after its answer was lost, it changes nothing but the count of doubled ones.
RECORD: Final = f"""{_WRITE}{_FINISH}
if ARGV[1] ~= '' and not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return -1 end
local state = redis.call('HGET', KEYS[2], 'state')
if not state then return -2 end
local ends = tonumber(ARGV[2])
local written = -3
if state == 'open' then written = write(KEYS[2], KEYS[3], KEYS[4], 3 + ends) end
for i = 3, 2 + ends do finish(KEYS[2], KEYS[5], ARGV[i]) end
return written
"""

# KEYS: lock, job, outcomes; ARGV: token, the number up to which outcomes are collected, up to which they are after this, the id
# of the last of these ('': it never was in Redis), then counts and what is added to each. Returns 0, or -1, -2 where the job is
# not in Redis, -4 where another number is collected or the last one is another. The trimming comes first: it makes room in a full
# Redis.
COMMIT: Final = f"""{LEADS}
local collected = redis.call('HGET', KEYS[2], 'collected')
if not collected then return -2 end
if collected ~= ARGV[2] then return -4 end
if ARGV[4] ~= '' and #redis.call('XRANGE', KEYS[3], ARGV[4], ARGV[4]) == 0 then return -4 end
redis.call('XTRIM', KEYS[3], 'MINID', string.format('%.0f-0', ARGV[3] + 1))
redis.call('HSET', KEYS[2], 'collected', ARGV[3], 'committed_by', ARGV[1])
for i = 5, #ARGV, 2 do redis.call('HINCRBY', KEYS[2], ARGV[i], ARGV[i + 1]) end
return 0
"""

# KEYS: lock, job, its done chunks, outcomes, batches, jobs; ARGV: token, job id, the number of the last outcome that is expected
# ('': the job must not be in Redis), how many words follow that are the job's fields, these, the bits of the chunks that are
# collected, then outcomes that are not, as `_WRITE` has them, which are numbered anew. Returns 0, or -1, or -4 where the job is
# not as expected. What is in motion stays, unless Redis has lost the job. A full Redis refuses a new one; one that is there is
# built again, because only then can its outcomes be collected.
INSTALL: Final = f"""{LEADS}{_WRITE}
local kept = {{'recorded', 'doubled', 'out_chunks', 'out_bytes'}}
local stands = redis.call('HMGET', KEYS[2], unpack(kept))
if (stands[1] or '') ~= ARGV[3] then return -4 end
if not stands[1] then
  redis.call('SADD', KEYS[6], ARGV[2])
  redis.call('DEL', KEYS[5])
end
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4])
redis.call('SADD', KEYS[6], ARGV[2])
local bits = 5 + ARGV[4]
redis.call('HSET', KEYS[2], 'state', 'open', 'held_bytes', '0', unpack(ARGV, 5, bits - 1))
for i = 2, #kept do redis.call('HSET', KEYS[2], kept[i], stands[i] or '0') end
if ARGV[bits] ~= '' then redis.call('SET', KEYS[3], ARGV[bits]) end
write(KEYS[2], KEYS[3], KEYS[4], bits + 1)
return 0
"""

# KEYS: lock, job; ARGV: token, then fields and values ('': the field goes). Returns 0, or -1, or -2 where the job is not in
# Redis. What a job waits for may be a full Redis: the deletion lets the rest through.
NOTE: Final = f"""{LEADS}
if redis.call('EXISTS', KEYS[2]) == 0 then return -2 end
for i = 2, #ARGV, 2 do redis.call('HDEL', KEYS[2], ARGV[i]) end
for i = 2, #ARGV, 2 do if ARGV[i + 1] ~= '' then redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end end
return 0
"""

# KEYS: lock, job; ARGV[1] token. From here on nothing of the job is fed or recorded. Returns 0, or -1, or -2 where the job is not
# in Redis.
CLOSE: Final = f"""{LEADS}
if redis.call('HDEL', KEYS[2], 'state') == 0 then return -2 end
redis.call('HSET', KEYS[2], 'state', 'closing')
return 0
"""

# KEYS: lock, jobs, then the job's own keys; ARGV: token, job id. Returns 0, or -1.
DROP: Final = f"""{LEADS}
redis.call('UNLINK', unpack(KEYS, 3))
redis.call('SREM', KEYS[2], ARGV[2])
return 0
"""
