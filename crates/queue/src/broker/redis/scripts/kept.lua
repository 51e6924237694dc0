-- Reads unacknowledged messages: the first ones, as many as are enough.
-- KEYS  unacked
-- ARGV  about how many bytes, tags
-- Returns what is kept of each, nil for one that is not there.
local found, budget = {}, tonumber(ARGV[1])
for at = 2, #ARGV do
  local kept = redis.call('HGET', KEYS[1], ARGV[at])
  found[at - 1] = kept
  budget = budget - (kept and #kept or 0)
  if budget <= 0 then
    break
  end
end
return found
