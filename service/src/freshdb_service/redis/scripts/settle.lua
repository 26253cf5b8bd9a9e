-- Forget leases that are over, or were never granted.
--
-- KEYS  1 deadlines (zset)   2 limits (hash)   3 expiring (zset)
-- ARGV  lease ids
-- Returns how many deadlines there were.
local removed = redis.call('ZREM', KEYS[1], unpack(ARGV))
redis.call('HDEL', KEYS[2], unpack(ARGV))
redis.call('ZREM', KEYS[3], unpack(ARGV))
return removed
