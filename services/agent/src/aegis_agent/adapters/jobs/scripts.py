"""The scripts that make each change of a job one step; Redis runs a script whole or not at all."""

from __future__ import annotations

from typing import Final

from aegis_agent.adapters.jobs.queue_scripts import QUEUES

_RUN_COMMANDS: Final = (
    QUEUES
    + """
-- Count what the jobs of a tenant hold; a job's own part is what its fields hold.
local HEAVY = {'payload', 'result', 'checkpoint'}

local function weigh(tenant, bytes)
  if bytes ~= 0 and redis.call('HINCRBY', PREFIX .. 'bytes', tenant, bytes) <= 0 then
    redis.call('HDEL', PREFIX .. 'bytes', tenant)
  end
end

local function put_field(tenant, job, field, data)
  weigh(tenant, #data - redis.call('HSTRLEN', job, field))
  if #data > 0 then redis.call('HSET', job, field, data) else redis.call('HDEL', job, field) end
end

-- Delete an ended job with everything of its own.
local function forget(tenant, id)
  local of_tenant = PREFIX .. 't:' .. tenant .. ':'
  for _, field in ipairs(HEAVY) do weigh(tenant, -redis.call('HSTRLEN', of_tenant .. 'job:' .. id, field)) end
  local request = redis.call('HGET', of_tenant .. 'job:' .. id, 'request')
  if request and request ~= '' then redis.call('DEL', of_tenant .. 'request:' .. request) end
  redis.call('DEL', of_tenant .. 'job:' .. id, of_tenant .. 'events:' .. id)
  for _, name in ipairs({'index', 'ended', 'state:completed', 'state:failed', 'state:cancelled'}) do
    redis.call('ZREM', of_tenant .. name, id)
  end
  redis.call('ZREM', PREFIX .. 'expiry', tenant .. '/' .. id)
end

-- Delete the ended jobs of a tenant that are too many, or with *room* bytes more too large, oldest first.
-- Those that ended a short while ago make no room. Returns whether there is room.
local SPARED_MS, AT_ONCE = 600000, 1000

local function keep_newest(tenant, most, most_bytes, room)
  local ended = PREFIX .. 't:' .. tenant .. ':ended'
  local held = function() return tonumber(redis.call('HGET', PREFIX .. 'bytes', tenant) or 0) end
  local beyond = math.min(redis.call('ZCARD', ended) - tonumber(most), AT_ONCE)
  if beyond > 0 then
    for _, id in ipairs(redis.call('ZRANGE', ended, 0, beyond - 1)) do forget(tenant, id) end
  end
  while held() + tonumber(room) > tonumber(most_bytes) do
    local oldest = redis.call('ZRANGE', ended, 0, 0, 'WITHSCORES')
    if not oldest[1] or tonumber(oldest[2]) > now_ms() - SPARED_MS then return false end
    forget(tenant, oldest[1])
  end
  return true
end

-- Note what another service is to be told. One that is away for long must not fill the store: drops count.
local function outbox(key, most, field, note)
  if redis.call('XLEN', key) >= tonumber(most) then
    redis.call('INCR', key .. ':dropped')
  else
    redis.call('XADD', key, '*', field, note)
  end
end

local OWN = {
  ENQUEUE = enqueue, DEQUEUE = dequeue, RELEASE = release, KEEP_NEWEST = keep_newest, PUT_FIELD = put_field,
  OUTBOX = outbox}

local function run(from)
  while from <= #ARGV do
    local count, command = tonumber(ARGV[from]), {}
    for item = 1, count do command[item] = ARGV[from + item] end
    local own = OWN[command[1]]
    if own then own(unpack(command, 2)) else redis.call(unpack(command)) end
    from = from + count + 1
  end
end
"""
)

COMMIT: Final = (
    _RUN_COMMANDS
    + """
-- KEYS: job. ARGV: the revision that the caller knows, then commands, each after its count of words.
-- Returns 1, or 0 when somebody else has changed the job meanwhile.
if (redis.call('HGET', KEYS[1], 'revision') or '') ~= ARGV[1] then return 0 end
run(2)
return 1
"""
)

CREATE: Final = (
    _RUN_COMMANDS
    + """
-- KEYS: job, request or '', index of unfinished jobs. ARGV: request value, most unfinished jobs, tenant, most
-- ended jobs, most bytes, bytes of the payload, commands.
-- Returns '' when it was kept, 'full', 'heavy', or the value of the request that was there before.
if redis.call('EXISTS', KEYS[1]) == 1 then return '' end
if KEYS[2] ~= '' then
  local seen = redis.call('GET', KEYS[2])
  if seen then return seen end
end
if redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[2]) then return 'full' end
if not keep_newest(ARGV[3], ARGV[4], ARGV[5], ARGV[6]) then return 'heavy' end
if KEYS[2] ~= '' then redis.call('SET', KEYS[2], ARGV[1]) end
run(7)
return ''
"""
)

_FENCE: Final = """
local now = redis.call('HMGET', KEYS[1], 'attempt', 'runner')
if now[1] ~= ARGV[1] or now[2] ~= ARGV[2] then return 0 end
"""

TELL: Final = (
    _FENCE
    + """
-- KEYS: job, events. ARGV: attempt, runner, progress or '', most events, channel, how many events of the
-- attempt came before, then kind and data of each event. Returns 0 when the attempt is another's, else 1.
-- Events that are sent again, because the answer was lost, are told once.
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'progress', ARGV[3]) end
local of, count = string.match(redis.call('HGET', KEYS[1], 'told') or '', '^(%d+) (%d+)$')
local told = of == ARGV[1] and tonumber(count) or 0
local before, after = tonumber(ARGV[6]), tonumber(ARGV[6]) + (#ARGV - 6) / 2
redis.call('HSET', KEYS[1], 'told', ARGV[1] .. ' ' .. math.max(told, after))
for item = 7 + 2 * math.max(told - before, 0), #ARGV, 2 do
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*',
    'kind', ARGV[item], 'data', ARGV[item + 1], 'attempt', ARGV[1])
end
redis.call('PUBLISH', ARGV[5], '')
return 1
"""
)

CHECKPOINT: Final = (
    _RUN_COMMANDS
    + _FENCE
    + """
-- KEYS: job. ARGV: attempt, runner, data, tenant. Returns 0 when the attempt is another's, else 1.
put_field(ARGV[4], KEYS[1], 'checkpoint', ARGV[3])
return 1
"""
)

DELETE: Final = (
    _RUN_COMMANDS
    + """
-- KEYS: expiry. ARGV: tenant, id, now. Deletes an ended job whose time is over; a retried one has left the
-- expiry set.
local due = redis.call('ZSCORE', KEYS[1], ARGV[1] .. '/' .. ARGV[2])
if not due or tonumber(due) > tonumber(ARGV[3]) then return 0 end
forget(ARGV[1], ARGV[2])
return 1
"""
)

KEEP_LEASE: Final = """
-- KEYS: lease. ARGV: holder, milliseconds. Takes or renews a lease; returns 1 when the holder has it.
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""

DROP_LEASE: Final = """
-- KEYS: lease. ARGV: holder.
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""
