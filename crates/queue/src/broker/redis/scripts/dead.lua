-- Lists dead letters, the oldest first.
-- KEYS  stream
-- ARGV  how many, largest message, about how many bytes
-- Returns [key, reason, message or its size, ...].
local letters, after, budget = {}, '-', tonumber(ARGV[3])
for _ = 1, tonumber(ARGV[1]) do
  local entry = redis.call('XRANGE', KEYS[1], after, '+', 'COUNT', 1)[1]
  if not entry then
    break
  end
  local reason, message = entry[2][2], entry[2][6]
  after = '(' .. entry[1]
  if #message > tonumber(ARGV[2]) or #message > budget then
    message = #message
  else
    budget = budget - #message
  end
  letters[#letters + 1] = entry[1]
  letters[#letters + 1] = reason
  letters[#letters + 1] = message
end
return letters
