-- Write the deadlines of new leases, unless other callers wait for the pool.
--
-- KEYS  1 queue of the pool (zset: waiter -> ticket)
--       2 presence of its waiters (zset: waiter -> gone after, ms)
--       3 deadlines (zset: lease -> ends at, ms)
--       4 limits (hash: lease -> "max ends at ms|ttl ms|principal")
--       5 wanted (hash: waiter -> databases)   6 who (hash: waiter -> JSON)
-- ARGV  1 TTL in ms   2 maximum lifetime in ms   3 principal   4 "1" for the waiter at the head: do not check the queue
--       5.. lease ids
-- Returns {1, now in us, deadline in ms, 0} if the deadlines are written, {0, now in us, 0, waiters} if others wait already.
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now = math.floor(now_us / 1000)
if ARGV[4] ~= '1' then
  local head = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
  while head do
    local gone_after = tonumber(redis.call('ZSCORE', KEYS[2], head) or '0')
    if gone_after > now then
      return {0, string.format('%.0f', now_us), 0, redis.call('ZCARD', KEYS[1])}
    end
    redis.call('ZREM', KEYS[1], head)
    redis.call('ZREM', KEYS[2], head)
    redis.call('HDEL', KEYS[5], head)
    redis.call('HDEL', KEYS[6], head)
    head = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
  end
end
local max_at = now + tonumber(ARGV[2])
local deadline = math.min(now + tonumber(ARGV[1]), max_at)
for i = 5, #ARGV do
  redis.call('ZADD', KEYS[3], string.format('%.0f', deadline), ARGV[i])
  redis.call('HSET', KEYS[4], ARGV[i], string.format('%.0f|%.0f|%s', max_at, ARGV[1], ARGV[3]))
end
return {1, string.format('%.0f', now_us), string.format('%.0f', deadline), 0}
