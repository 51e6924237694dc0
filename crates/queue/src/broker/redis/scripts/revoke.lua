-- Remembers revocations, each by a number that is larger than those before: about the time in microseconds.
-- KEYS[1]: the remembered ones. ARGV: for how many seconds, how many at most, then the members.
local time = redis.call('TIME')
local number = time[1] * 1000000 + time[2]
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
if last and tonumber(last) >= number then
    number = tonumber(last) + 1
end
for at = 3, #ARGV do
    redis.call('ZADD', KEYS[1], string.format('%.0f', number), ARGV[at])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', number - ARGV[1] * 1000000))
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
