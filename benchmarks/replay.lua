-- Replays prebuilt requests in turn. Arguments: folder of numbered bodies, how many, path, then header names and values.
local requests = {}
local next_one = 0

function init(args)
  local folder, count, path = args[1], tonumber(args[2]), args[3]
  local headers = {}
  for i = 4, #args, 2 do
    headers[args[i]] = args[i + 1]
  end
  for i = 0, count - 1 do
    local file = assert(io.open(folder .. "/" .. i, "rb"))
    requests[i] = wrk.format("POST", path, headers, file:read("*a"))
    file:close()
  end
end

function request()
  next_one = (next_one + 1) % (#requests + 1)
  return requests[next_one]
end

function done(summary, latency, _)
  local e = summary.errors
  io.write(string.format(
    '\nRESULT {"requests": %d, "seconds": %.6f, "p50_ms": %.4f, "p99_ms": %.4f, "failed": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.status + e.connect + e.read + e.write + e.timeout))
end
