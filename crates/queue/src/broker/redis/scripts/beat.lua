-- Says that a consumer lives.
-- KEYS  consumers, fences
-- ARGV  consumer, seconds until it is taken to be dead, 'join' or 'beat', '1' if it may look for dead ones
-- Returns the name of a dead consumer whose messages the caller is to give back, or ''; nil if the caller itself has been
-- given up for dead.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
if ARGV[3] == 'beat' and not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return false
end
if redis.call('HGET', KEYS[2], ARGV[1]) == 'dead' then
  return false
end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
if ARGV[4] == '1' then
  local dead = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1)[1]
  if dead then
    -- If the caller dies, too, somebody else comes when this is over.
    redis.call('HSET', KEYS[2], dead, 'dead')
    redis.call('ZADD', KEYS[1], now + ARGV[2], dead)
    return dead
  end
end
return ''
