"""The scripts with which the controller that leads says what it makes of the engines; `job_scripts` says how they are built."""

from typing import Final

from aegis_workers.state.job_scripts import LEADS

# KEYS: lock, engine hash; ARGV: token, the control that is expected ('': none), the new one, '1' where the engine is fenced and
# else '0'. Returns 0, or -1, or -4 where another control stands there. The epoch grows with each change of the fence, also where
# Redis has forgotten the last one: what was decided before the change is refused after it. A full Redis must not keep an engine
# from being fenced: the deletion lets the rest through.
SET_CONTROL: Final = f"""{LEADS}
local stands, fence, epoch = unpack(redis.call('HMGET', KEYS[2], 'control', 'fence', 'epoch'))
if (stands or '') ~= ARGV[2] then return -4 end
redis.call('HDEL', KEYS[2], 'control')
redis.call('HSET', KEYS[2], 'control', ARGV[3])
if (fence and '1' or '0') ~= ARGV[4] then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('HSET', KEYS[2], 'epoch', string.format('%.0f', math.max((tonumber(epoch) or 0) + 1, now)))
  if fence then redis.call('HDEL', KEYS[2], 'fence') else redis.call('HSET', KEYS[2], 'fence', '1') end
end
return 0
"""

# KEYS: lock, memory; ARGV: token, JSON, ms that it holds. Returns 0, or -1.
SET_MEMORY: Final = f"""{LEADS}
redis.call('DEL', KEYS[2])
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return 0
"""
