-- Enter waiters into a pool's queue, or say that they are still there. A ticket is the instant (us) at which its waiter
-- first asked: a waiter that Redis forgot comes back to the place that it had. A queue in which nobody has said so for a
-- minute goes by itself, with everything that dead replicas left in it.
--
-- KEYS  1 queue (zset: waiter -> ticket)   2 presence (zset: waiter -> gone after, ms)   3 wanted (hash: waiter -> databases)
--       4 who (hash: waiter -> JSON, for people to read)
-- ARGV  1 presence in ms   2.. waiter, ticket, databases wanted, who ('' if that was said before); and so on
-- Returns {head, length}; the head is '' when the queue is empty.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 2, #ARGV, 4 do
  redis.call('ZADD', KEYS[1], 'NX', ARGV[i + 1], ARGV[i])
  redis.call('ZADD', KEYS[2], now + tonumber(ARGV[1]), ARGV[i])
  redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 2])
  if ARGV[i + 3] ~= '' then
    redis.call('HSET', KEYS[4], ARGV[i], ARGV[i + 3])
  end
end
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, 60000)
end
local gone = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)
for _, waiter in ipairs(gone) do
  redis.call('ZREM', KEYS[1], waiter)
  redis.call('ZREM', KEYS[2], waiter)
  redis.call('HDEL', KEYS[3], waiter)
  redis.call('HDEL', KEYS[4], waiter)
end
return {redis.call('ZRANGE', KEYS[1], 0, 0)[1] or '', redis.call('ZCARD', KEYS[1])}
