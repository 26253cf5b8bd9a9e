-- Remove leases that have ended or were never granted. Ended ones are remembered for a while, so that a replica that has
-- read the control plane before does not restore their deadlines.
--
-- KEYS  1 deadlines (zset)   2 limits (hash)   3 expiring (zset)   4 over (zset: lease -> since, ms)
-- ARGV  1 how long to remember, in ms (0 for leases that were never granted)   2.. lease ids
-- Returns the number of removed deadlines.
local leases = {unpack(ARGV, 2)}
local removed = redis.call('ZREM', KEYS[1], unpack(leases))
redis.call('HDEL', KEYS[2], unpack(leases))
redis.call('ZREM', KEYS[3], unpack(leases))
local keep = tonumber(ARGV[1])
if keep > 0 then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  for _, lease in ipairs(leases) do
    redis.call('ZADD', KEYS[4], now, lease)
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now - keep)
  redis.call('PEXPIRE', KEYS[4], keep)
end
return removed
