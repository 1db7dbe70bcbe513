"""The scripts of slots and breakers; the others are in `scripts`."""

from typing import Final

# One engine's slots given back and asked for: the instant of the task boundary. KEYS: mode, engine hash, freed, demand of the
# bulk and of the interactive lane, both lanes' leases of each replica, the cancel mark of each want's task. ARGV[1]: the
# question as JSON (`state.slots` has its form; lane 1 is bulk, 2 interactive). Returns a refusal or '' for each lane, 1 where
# another worker waits and else 0, then for each want the number of its replica, 0 for none, -1 where its task was revoked, -2
# where it was terminated.
#
# Who waits is noted as the lane's demand: another worker then leaves it a slot, bulk leaves it to interactive work altogether,
# and a slot that is given back is told of by a write that Redis pushes to all.
EXCHANGE_SLOTS: Final = """
local q = cjson.decode(ARGV[1])
local BULK, INTERACTIVE = 1, 2
local LEASES, MARKS = 5, 5 + 2 * #q.replicas
local marks = {KEYS[1], KEYS[4], KEYS[5]}
for i = 1, #q.wants do marks[i + 3] = KEYS[MARKS + i] end
local read = redis.call('MGET', unpack(marks))
local fields = {'epoch', 'fence'}
for i, replica in ipairs(q.replicas) do
  fields[2 * i + 1] = 'replica:' .. replica[1]
  fields[2 * i + 2] = 'breaker:' .. replica[1]
end
local engine = redis.call('HMGET', KEYS[2], unpack(fields))

local function leases(replica, lane) return KEYS[LEASES + 2 * (replica - 1) + lane] end
local function member(call) return q.worker .. '|' .. call end

local breakers, moved = {}, {}
for i = 1, #q.replicas do breakers[i] = engine[2 * i + 2] and cjson.decode(engine[2 * i + 2]) or {opens = 0} end
local function move(replica, breaker) breakers[replica], moved[replica] = breaker, true end
local function open(replica, opens)
  local open_ms = math.min(q.longest_open_ms, q.first_open_ms * 2 ^ math.min(opens - 1, 30))
  move(replica, {opens = opens, until_ms = q.now + open_ms})
end
local function judge(replica, call, ended)
  local breaker = breakers[replica]
  local failed = breaker.failed or {}
  if breaker.opens > 0 then
    if breaker.trial ~= member(call) then return end
    if ended == 'served' then move(replica, {opens = 0})
    elseif ended == 'failed' then open(replica, breaker.opens + 1)
    else move(replica, {opens = breaker.opens, until_ms = breaker.until_ms}) end
  elseif ended == 'served' and #failed > 0 then
    move(replica, {opens = 0})
  elseif ended == 'failed' then
    for _, other in ipairs(failed) do if other == call then return end end
    failed[#failed + 1] = call
    if #failed >= q.failures then open(replica, 1) else move(replica, {opens = 0, failed = failed}) end
  end
end

local given, freed = {}, 0
for _, give in ipairs(q.gives) do
  local key = leases(give[1], give[2])
  given[key] = given[key] or {}
  table.insert(given[key], member(give[3]))
  judge(give[1], give[3], give[4])
end
for key, members in pairs(given) do freed = freed + redis.call('ZREM', key, unpack(members)) end

local demand = {}
for lane = BULK, INTERACTIVE do
  local worker, till = string.match(read[1 + lane] or '', '^(.*)|(%d+)$')
  if worker and tonumber(till) > q.now then demand[lane] = {worker = worker, till = tonumber(till)} end
end
local function others_wait(lane) return demand[lane] and demand[lane].worker ~= q.worker end
if freed > 0 and (others_wait(BULK) or others_wait(INTERACTIVE)) then
  redis.call('SET', KEYS[3], q.now, 'PX', q.demand_ms)
end

local counts = {}
local function counted(replica)
  if not counts[replica] then
    counts[replica] = {redis.call('ZCARD', leases(replica, BULK)), redis.call('ZCARD', leases(replica, INTERACTIVE))}
  end
  return counts[replica]
end
local ready = {}
for i = 1, #q.replicas do
  local state = engine[2 * i + 1]
  if state and cjson.decode(state).state == 'ready' then ready[#ready + 1] = i end
end
local function lets_through(replica)
  local breaker = breakers[replica]
  if breaker.opens == 0 then return true end
  return q.now >= breaker.until_ms and not (breaker.trial and q.now < breaker.trial_until_ms)
end
local function room(replica, lane)
  local limit, kept, count = q.replicas[replica][2], q.replicas[replica][3], counted(replica)
  local free = limit - count[BULK] - count[INTERACTIVE]
  if lane == BULK then free = math.min(free, limit - kept - count[BULK]) end
  return math.max(0, free)
end

local taken = {}
local function take(replica, lane, call)
  local key = leases(replica, lane)
  taken[key] = taken[key] or {}
  table.insert(taken[key], q.now + q.lease_ms)
  table.insert(taken[key], member(call))
  counted(replica)[lane] = counted(replica)[lane] + 1
  local breaker = breakers[replica]
  if breaker.opens > 0 then
    move(replica, {opens = breaker.opens, until_ms = breaker.until_ms, trial = member(call), trial_until_ms = q.now + q.trial_ms})
  end
end
-- The lease that an earlier delivery of the call left, or one whose answer was lost on the way: taken over, not doubled.
local function take_over(lane, call)
  for replica = 1, #q.replicas do
    for _, held in ipairs(redis.call('ZRANGE', leases(replica, lane), 0, -1)) do
      if string.sub(held, -#call - 1) == '|' .. call then
        local count = counted(replica)
        count[lane] = count[lane] - redis.call('ZREM', leases(replica, lane), held)
        take(replica, lane, call)
        return replica
      end
    end
  end
end

-- `true` stands for bytes that are no text: they are an unknown word, and the last valid mode is in force.
local fenced = engine[2] or (engine[1] or '') ~= q.epoch
local stale = (q.mode ~= true and read[1] ~= q.mode and 'mode') or (fenced and 'engine') or ''
local refused = {stale, stale}
local function choose(lane)
  if #ready == 0 then return nil, 'engine' end
  local best, free, passing = nil, 0, false
  for _, replica in ipairs(ready) do
    if lets_through(replica) then
      passing = true
      local here = room(replica, lane)
      free = free + here
      local count = counted(replica)
      local load = count[BULK] + count[INTERACTIVE]
      if here > 0 and (best == nil or load < best.load) then best = {replica = replica, load = load} end
    end
  end
  if not passing then return nil, 'breaker' end
  if lane == BULK and others_wait(INTERACTIVE) then return nil, 'full' end
  if others_wait(lane) then free = free - 1 end
  if best == nil or free < 1 then return nil, 'full' end
  return best.replica
end

local answer, waits = {}, {}
for i, want in ipairs(q.wants) do
  local lane, call = want[1], want[2]
  local chosen = 0
  local mark = read[3 + i]
  if mark and (mark == 'terminate' or not want[4]) then
    chosen = mark == 'terminate' and -2 or -1
  elseif refused[lane] == '' then
    chosen = want[3] and take_over(lane, call) or nil
    if not chosen then
      local why
      chosen, why = choose(lane)
      if chosen then take(chosen, lane, call) else refused[lane] = why end
    end
  end
  answer[3 + i] = chosen or 0
  waits[lane] = true
end
answer[1], answer[2] = refused[BULK], refused[INTERACTIVE]
answer[3] = (others_wait(BULK) or others_wait(INTERACTIVE)) and 1 or 0

for key, members in pairs(taken) do redis.call('ZADD', key, unpack(members)) end
for replica in pairs(moved) do
  local breaker, field = breakers[replica], 'breaker:' .. q.replicas[replica][1]
  if breaker.opens == 0 and not breaker.failed then
    redis.call('HDEL', KEYS[2], field)
  else
    redis.call('HSET', KEYS[2], field, cjson.encode(breaker))
  end
end
for lane = BULK, INTERACTIVE do
  local mine = demand[lane] and not others_wait(lane)
  if waits[lane] and refused[lane] == 'full' then
    if not demand[lane] or (mine and demand[lane].till - q.now < q.demand_ms / 2) then
      redis.call('SET', KEYS[3 + lane], q.worker .. '|' .. (q.now + q.demand_ms), 'PX', q.demand_ms)
    end
  elseif mine and waits[lane] then
    redis.call('DEL', KEYS[3 + lane])
  end
end
return answer
"""

# KEYS: leases; ARGV: lease in ms, JSON with the members of each. Holds on to them, those too that were taken for ended. Returns
# Redis's time.
REFRESH_SLOTS: Final = """
local time = redis.call('TIME')
local ending = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1]
for i, members in ipairs(cjson.decode(ARGV[2])) do
  for first = 1, #members, 1000 do
    local held = {}
    for m = first, math.min(first + 999, #members) do
      held[#held + 1] = ending
      held[#held + 1] = members[m]
    end
    redis.call('ZADD', KEYS[i], unpack(held))
  end
end
return time
"""

# KEYS: engine hashes, then leases; ARGV: worker, number of engine hashes. Returns how many slots the worker had.
FORGET_SLOTS: Final = """
local mark = ARGV[1] .. '|'
local function its(member) return type(member) == 'string' and string.sub(member, 1, #mark) == mark end
local engines = tonumber(ARGV[2])
for i = 1, engines do
  local fields = redis.call('HGETALL', KEYS[i])
  for f = 1, #fields, 2 do
    if string.sub(fields[f], 1, 8) == 'breaker:' then
      local breaker = cjson.decode(fields[f + 1])
      if its(breaker.trial) then
        breaker.trial, breaker.trial_until_ms = nil, nil
        redis.call('HSET', KEYS[i], fields[f], cjson.encode(breaker))
      end
    end
  end
end
local forgotten = 0
for i = engines + 1, #KEYS do
  for _, member in ipairs(redis.call('ZRANGE', KEYS[i], 0, -1)) do
    if its(member) then forgotten = forgotten + redis.call('ZREM', KEYS[i], member) end
  end
end
return forgotten
"""

# KEYS: leases; ARGV: ms. Returns how many have not ended, or not so long ago.
COUNT_SLOTS: Final = """
local time = redis.call('TIME')
local from = time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[1]
local count = 0
for i = 1, #KEYS do count = count + redis.call('ZCOUNT', KEYS[i], from, '+inf') end
return count
"""

# KEYS: leases. Returns how many had ended.
EXPIRE_SLOTS: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ended = 0
for i = 1, #KEYS do ended = ended + redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now) end
return ended
"""
