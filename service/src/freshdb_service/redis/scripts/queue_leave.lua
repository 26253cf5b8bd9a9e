-- Remove a waiter from a pool's queue, and wake the new head.
--
-- KEYS  1 queue   2 presence   3 wanted   4 who
-- ARGV  1 waiter   2 channel for wake-ups
-- Returns the length of the queue.
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('HDEL', KEYS[4], ARGV[1])
local head = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
if head then
  redis.call('PUBLISH', ARGV[2], 'turn ' .. head)
end
return redis.call('ZCARD', KEYS[1])
