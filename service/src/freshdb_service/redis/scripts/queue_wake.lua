-- Wake the head of a pool's queue, because a database is ready.
--
-- KEYS  1 queue   2 presence   3 wanted   4 who
-- ARGV  1 channel for wake-ups
-- Returns the length of the queue.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local head = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
while head and tonumber(redis.call('ZSCORE', KEYS[2], head) or '0') <= now do
  redis.call('ZREM', KEYS[1], head)
  redis.call('ZREM', KEYS[2], head)
  redis.call('HDEL', KEYS[3], head)
  redis.call('HDEL', KEYS[4], head)
  head = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
end
if head then
  redis.call('PUBLISH', ARGV[1], 'turn ' .. head)
end
return redis.call('ZCARD', KEYS[1])
