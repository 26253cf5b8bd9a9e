-- Enter waiters into a pool's queue, or refresh their presence. A ticket is the instant (us) of a waiter's first request,
-- so that a waiter that Redis has lost returns to its former place. A queue without a refresh for a minute expires, with all
-- entries of dead replicas.
--
-- KEYS  1 queue (zset: waiter -> ticket)   2 presence (zset: waiter -> gone after, ms)   3 wanted (hash: waiter -> databases)
--       4 who (hash: waiter -> JSON, for the dashboard)
-- ARGV  1 presence in ms   2.. waiter, ticket, databases wanted, who ('' for no change); and so on
-- Returns {head, length}; the head is '' if the queue is empty.
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
