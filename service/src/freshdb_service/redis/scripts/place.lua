-- How long a pool's queue is, what it wants, and a waiter's place in it.
--
-- KEYS  1 queue   2 presence   3 wanted   4 who (not looked at)
-- ARGV  1 waiter, or ''
-- Returns {place from 1 or 0, waiters, databases wanted}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local there = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. now, '+inf')
local wanted = 0
for _, waiter in ipairs(there) do
  wanted = wanted + tonumber(redis.call('HGET', KEYS[3], waiter) or '1')
end
local rank = ARGV[1] ~= '' and redis.call('ZRANK', KEYS[1], ARGV[1])
return {rank and rank + 1 or 0, #there, wanted}
