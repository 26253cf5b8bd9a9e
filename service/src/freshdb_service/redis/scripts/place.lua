-- How long a pool's queue is, what it wants, how long the first in it has waited, and a waiter's place in it.
--
-- KEYS  1 queue   2 presence   3 wanted   4 who (not looked at)
-- ARGV  1 waiter, or ''
-- Returns {place from 1 or 0, waiters, databases wanted, us that the first of them has waited}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local there = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. now, '+inf')
local wanted, first = 0, nil
for _, waiter in ipairs(there) do
  wanted = wanted + tonumber(redis.call('HGET', KEYS[3], waiter) or '1')
  local ticket = tonumber(redis.call('ZSCORE', KEYS[1], waiter) or 'inf')
  first = math.min(first or ticket, ticket)
end
local rank = ARGV[1] ~= '' and redis.call('ZRANK', KEYS[1], ARGV[1])
local waited = first and math.max(0, time[1] * 1000000 + time[2] - first) or 0
return {rank and rank + 1 or 0, #there, wanted, waited}
