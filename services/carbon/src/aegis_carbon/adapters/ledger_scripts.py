"""What Redis does in one step for the ledger, so that no crash leaves half of a change."""

from __future__ import annotations

from typing import Final

# Adds an entry, unless there is one, and drops what is too old or too much from the tenant's index.
# KEYS: entry, index, due, day, tenants.
# ARGV: record, how long to keep it (ms), end (ms), id, due (ms or ''), member of due,
# cell, cell for more than the day may have, most fields of a day, how long to keep the day (ms), tenant,
# most entries, prefix of entries, prefix of members, then amounts: name, number, ...
ADD: Final = """
local before = redis.call('hget', KEYS[1], 'record')
if before then return before end
local cell = ARGV[7]
local known = redis.call('hexists', KEYS[4], 'entries:' .. cell) == 1
if not known and redis.call('hlen', KEYS[4]) >= tonumber(ARGV[9]) then cell = ARGV[8] end
redis.call('hset', KEYS[1], 'record', ARGV[1], 'revision', '1', 'day', KEYS[4], 'cell', cell)
redis.call('pexpire', KEYS[1], ARGV[2])
redis.call('zadd', KEYS[2], ARGV[3], ARGV[4])
if ARGV[5] ~= '' then redis.call('zadd', KEYS[3], ARGV[5], ARGV[6]) end
for place = 15, #ARGV, 2 do
  redis.call('hincrbyfloat', KEYS[4], ARGV[place] .. ':' .. cell, ARGV[place + 1])
end
redis.call('pexpire', KEYS[4], ARGV[10])
redis.call('sadd', KEYS[5], ARGV[11])
for turn = 1, 2 do
  local oldest = redis.call('zrange', KEYS[2], 0, 0)[1]
  if not oldest then break end
  local gone = redis.call('exists', ARGV[13] .. oldest) == 0
  if not gone and redis.call('zcard', KEYS[2]) <= tonumber(ARGV[12]) then break end
  redis.call('zrem', KEYS[2], oldest)
  redis.call('del', ARGV[13] .. oldest)
  redis.call('zrem', KEYS[3], ARGV[14] .. oldest)
end
return false
"""

# Puts a new record in the place of the one of a revision.
# KEYS: entry, due.
# ARGV: revision before, record, revision, due (ms or ''), member of due, then amounts to add.
CHANGE: Final = """
local found = redis.call('hmget', KEYS[1], 'revision', 'day', 'cell')
if found[1] ~= ARGV[1] then return 0 end
redis.call('hset', KEYS[1], 'record', ARGV[2], 'revision', ARGV[3])
if ARGV[4] ~= '' then
  redis.call('zadd', KEYS[2], ARGV[4], ARGV[5])
else
  redis.call('zrem', KEYS[2], ARGV[5])
end
if redis.call('exists', found[2]) == 1 then
  for place = 6, #ARGV, 2 do
    redis.call('hincrbyfloat', found[2], ARGV[place] .. ':' .. found[3], ARGV[place + 1])
  end
end
return 1
"""

# Returns the members that are due, and puts them off, so that no other replica takes them meanwhile.
# KEYS: due.  ARGV: present (ms), most, until when they are put off (ms).
TAKE_DUE: Final = """
local found = redis.call('zrangebyscore', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for _, member in ipairs(found) do redis.call('zadd', KEYS[1], ARGV[3], member) end
return found
"""
