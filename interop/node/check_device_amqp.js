'use strict';
// Microsoft's unmodified Node device SDK over AMQP, and their service SDK for C2D, against a local hub.
// The SDKs know port 5671 only; the port is turned below them, in tls.connect.

const fs = require('fs');
const net = require('net');
const tls = require('tls');
const { randomUUID } = require('crypto');
const { once } = require('events');
const readline = require('readline');

const HOST = process.env.HUB_HOST || 'localhost';
const PORT = Number(process.env.HUB_AMQPS_PORT || 5671);
const CA = process.env.HUB_CA ? fs.readFileSync(process.env.HUB_CA, 'utf8') : undefined;
const LIMIT_MS = 1000 * Number(process.env.HUB_CHECK_SECONDS || 30);

const connect = tls.connect;
tls.connect = (...args) => {
  const callback = args.find((arg) => typeof arg === 'function');
  const options = args.find((arg) => arg !== null && typeof arg === 'object') || {};
  const host = options.host || HOST;
  const servername = options.servername || host;
  return connect({ ...options, host: HOST, port: PORT, servername, ca: CA }, callback);
};

const { Client, Message } = require('azure-iot-device');
const { Amqp } = require('azure-iot-device-amqp');
const { Client: ServiceClient, NoRetry } = { ...require('azure-iothub'), ...require('azure-iot-common') };

const DEVICE_CS = process.env.HUB_DEVICE_CS;
const SERVICE_CS = process.env.HUB_SERVICE_CS;
const DEVICE = /DeviceId=([^;]+)/.exec(DEVICE_CS)[1];

// The hub's control line, if the program runs under run.sh: commands on fd 3, answers on fd 4.
const control = process.env.HUB_CONTROL === '1'
  ? {
      out: new net.Socket({ fd: 3, readable: false, writable: true }),
      lines: readline.createInterface({ input: new net.Socket({ fd: 4, readable: true, writable: false }) })[Symbol.asyncIterator](),
    }
  : undefined;

async function hub(command) {
  control.out.write(`${command}\n`);
  const { value } = await control.lines.next();
  if (value === undefined || value.startsWith('error:')) throw new Error(`hub: ${value}`);
  return value;
}

function assert(condition, text) {
  if (!condition) throw new Error(text);
}

function soon(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} in time`)), LIMIT_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function withDevice(work, connectionString = DEVICE_CS) {
  const client = Client.fromConnectionString(connectionString, Amqp);
  client.setRetryPolicy(new NoRetry());
  client.on('error', () => {});
  try {
    await client.open();
    return await work(client);
  } finally {
    await client.close().catch(() => {});
  }
}

async function withService(work) {
  const client = ServiceClient.fromConnectionString(SERVICE_CS);
  client.setRetryPolicy(new NoRetry());
  try {
    await client.open();
    return await work(client);
  } finally {
    await client.close().catch(() => {});
  }
}

/** Sends a C2D message and hands the device each arrival, until `settle` says it is done. */
async function c2d(settle) {
  return withDevice((device) =>
    withService(async (service) => {
      const id = randomUUID();
      const { Message: ServiceMessage } = require('azure-iot-common');
      const done = new Promise((resolve, reject) => {
        let arrivals = 0;
        device.on('message', (message) => {
          arrivals += 1;
          settle(device, message, arrivals).then((finished) => finished && resolve({ message, arrivals, id }), reject);
        });
      });
      const message = new ServiceMessage(`for ${DEVICE}`);
      message.messageId = id;
      message.properties.add('color', 'blue');
      await service.send(DEVICE, message);
      return soon(done, 'message');
    }),
  );
}

const checks = {
  async 'telemetry is accepted'() {
    await withDevice(async (device) => {
      const message = new Message(JSON.stringify({ temperature: 21 }));
      message.messageId = 'node-1';
      message.correlationId = 'about-1';
      message.contentType = 'application/json';
      message.contentEncoding = 'utf-8';
      message.properties.add('level', 'high');
      await soon(device.sendEvent(message), 'settlement');
    });
    if (!control) return;
    const seen = JSON.parse(await hub(`accepted ${DEVICE}`));
    assert(seen.body === '{"temperature":21}', `body ${seen.body}`);
    assert(seen.messageId === 'node-1' && seen.correlationId === 'about-1', 'ids');
    assert(seen.contentType === 'application/json' && seen.contentEncoding === 'utf-8', 'content type');
    assert(seen.properties.level === 'high', 'properties');
  },

  async 'three thousand messages are accepted'() {
    await withDevice(async (device) => {
      for (let sent = 0; sent < 3000; sent += 100) {
        await soon(Promise.all(Array.from({ length: 100 }, () => device.sendEvent(new Message('x')))), 'settlement');
      }
    });
  },

  async 'a message of 200 KB is accepted'() {
    await withDevice((device) => soon(device.sendEvent(new Message('x'.repeat(200_000))), 'settlement'));
  },

  async 'a message over 256 KB is too large'() {
    const error = await withDevice((device) => device.sendEvent(new Message('x'.repeat(300_000)))).catch((e) => e);
    assert(error instanceof Error && error.name === 'MessageTooLargeError', `got ${error && error.name}`);
  },

  async 'C2D complete'() {
    const { message, id } = await c2d(async (device, arrived) => {
      await device.complete(arrived);
      return true;
    });
    assert(message.messageId === id, `message id ${message.messageId}`);
    assert(message.data.toString() === `for ${DEVICE}`, `body ${message.data}`);
    assert(message.properties.getValue('color') === 'blue', 'properties');
  },

  async 'C2D reject'() {
    await c2d(async (device, message) => {
      await device.reject(message);
      return true;
    });
  },

  async 'C2D abandon brings the message again'() {
    const { arrivals } = await c2d(async (device, message, arrivals) => {
      if (arrivals < 3) await device.abandon(message);
      else await device.complete(message);
      return arrivals === 3;
    });
    assert(arrivals === 3, `${arrivals} arrivals`);
  },

  async 'C2D to an unknown device is refused'() {
    const error = await withService((service) => service.send(`ghost-${randomUUID()}`, 'x')).catch((e) => e);
    assert(error instanceof Error && error.name === 'DeviceNotFoundError', `got ${error && error.name}: ${error}`);
  },

  async 'twin get, reported'() {
    await withDevice(async (device) => {
      const twin = await soon(device.getTwin(), 'twin');
      const before = twin.properties.reported.$version;
      await soon(
        new Promise((resolve, reject) =>
          twin.properties.reported.update({ fw: randomUUID() }, (error) => (error ? reject(error) : resolve())),
        ),
        'answer',
      );
      await soon(twin.get(), 'twin');
      assert(twin.properties.reported.$version === before + 1, `version ${twin.properties.reported.$version}`);
    });
  },

  async 'twin desired'() {
    assert(control, 'needs the control line');
    await withDevice(async (device) => {
      const twin = await soon(device.getTwin(), 'twin');
      const rate = Date.now();
      const told = new Promise((resolve) =>
        twin.on('properties.desired', (patch) => patch.rate === rate && resolve(patch)),
      );
      // The subscription has no callback of its own: patch until it is heard.
      const again = setInterval(() => hub(`desired ${DEVICE} {"rate":${rate}}`), 300);
      try {
        await soon(told, 'notification');
      } finally {
        clearInterval(again);
      }
    });
  },

  async 'direct method'() {
    assert(control, 'needs the control line');
    await withDevice(async (device) => {
      const called = new Promise((resolve) => {
        device.onDeviceMethod('reboot', (request, response) => {
          response.send(202, { had: request.payload }, () => resolve(request));
        });
      });
      let answer;
      for (;;) {
        answer = await hub(`method ${DEVICE} reboot {"delay":5}`).catch((e) => e);
        if (!(answer instanceof Error && /not online/.test(answer.message))) break;
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      await soon(called, 'call');
      assert(answer === '202 {"had":{"delay":5}}', `answer ${answer}`);
    });
    const offline = await hub(`method ${DEVICE} reboot {}`).catch((e) => e.message);
    assert(/not online/.test(offline), `offline: ${offline}`);
  },

  async 'a wrong key is unauthorized'() {
    const wrong = DEVICE_CS.replace(/SharedAccessKey=.*/, `SharedAccessKey=${Buffer.alloc(32, 7).toString('base64')}`);
    const error = await withDevice(async () => 'connected', wrong).catch((e) => e);
    assert(error.name === 'UnauthorizedError', `got ${error.name || error}`);
  },

  async 'an unknown device is refused'() {
    const unknown = DEVICE_CS.replace(/DeviceId=[^;]+/, `DeviceId=ghost-${randomUUID()}`);
    const error = await withDevice(async () => 'connected', unknown).catch((e) => e);
    assert(error instanceof Error, `got ${error}`);
  },

  async 'a cut connection is noticed'() {
    assert(control, 'needs the control line');
    await withDevice(async (device) => {
      const gone = once(device, 'disconnect');
      await hub('cut');
      await soon(gone, 'disconnect');
    });
  },
};

(async () => {
  let [passed, failed] = [0, 0];
  for (const [name, check] of Object.entries(checks)) {
    try {
      await soon(check(), 'end of the check');
      passed += 1;
      console.log(`ok ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAIL ${name} ${process.env.HUB_TRACE ? error.stack : error.message}`);
    }
  }
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed === 0 ? 0 : 1);
})();
