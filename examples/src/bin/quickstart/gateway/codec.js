// The payloads of the quickstart's devices.

// A count (4 bytes) and a temperature in tenths of a degree (2 bytes).
function decodeUplink(input) {
  var b = input.bytes;
  if (b.length !== 6) return { errors: ["6 bytes are expected"] };
  return {
    data: {
      count: ((b[0] << 24) | (b[1] << 16) | (b[2] << 8) | b[3]) >>> 0,
      temperature: ((b[4] << 8) | b[5]) / 10,
    },
  };
}

// {"interval": "10s"} is 1 and the seconds, {"blink": {"times": 3}} is 2 and how often.
function encodeDownlink(input) {
  var data = input.data;
  if (data.interval) return { fPort: 10, bytes: [1, parseInt(data.interval, 10)] };
  if (data.blink) return { fPort: 10, bytes: [2, data.blink.times] };
  return { errors: ["an interval or a blink is expected"] };
}
