-- Puts dead letters back into their queue.
-- KEYS  stream
-- ARGV  'these', keys of letters; or 'all', the key of the last one ('' if it is not known yet), how many
-- Returns how many there were, and the key of the last one.
local entries, last = {}, ''
if ARGV[1] == 'these' then
  for at = 2, #ARGV do
    entries[#entries + 1] = redis.call('XRANGE', KEYS[1], ARGV[at], ARGV[at])[1]
  end
else
  last = ARGV[2]
  if last == '' then
    last = (redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1] or {'-'})[1]
  end
  entries = redis.call('XRANGE', KEYS[1], '-', last, 'COUNT', ARGV[3])
end
for _, entry in ipairs(entries) do
  redis.call('LPUSH', entry[2][4], entry[2][6])
  redis.call('XDEL', KEYS[1], entry[1])
end
if redis.call('XLEN', KEYS[1]) == 0 then
  redis.call('DEL', KEYS[1])
end
return {#entries, last}
