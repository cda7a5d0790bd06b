'use strict';
// What every peer on Node has in common: orders on standard input, a line of JSON each, and an
// answer to each on standard output. The orders are those of src/bin/side_by_side/client.rs.

const crypto = require('crypto');
const readline = require('readline');

const HOST = 'localhost';
const BODY = Buffer.alloc(100, 'x');
const DEVICES_PER_CONNECTION = 995;
/** Devices that are opened side by side on a connection. */
const OPENING = 50;

const deviceName = (number) => `device-${String(number).padStart(7, '0')}`;

const hmac = (key, text) => crypto.createHmac('sha256', Buffer.from(key, 'base64')).update(text).digest('base64');

/** The key of a device, as the hub derives it from its group key. */
const deviceKey = (hub, device) => hmac(hub.group_key, device);

/** A token of a device for a day. */
function deviceToken(hub, device) {
  const resource = encodeURIComponent(`${HOST}/devices/${device}`);
  const expires = Math.floor(Date.now() / 1000) + 24 * 3600;
  const signature = encodeURIComponent(hmac(deviceKey(hub, device), `${resource}\n${expires}`));
  return { audience: resource, text: `SharedAccessSignature sr=${resource}&sig=${signature}&se=${expires}` };
}

/** The names of the devices, in shares of a connection. */
function shares({ first, devices }, most = DEVICES_PER_CONNECTION) {
  const names = Array.from({ length: devices }, (_, n) => deviceName(first + n));
  return Array.from({ length: Math.ceil(devices / most) }, (_, n) => names.slice(n * most, (n + 1) * most));
}

/** Does something with every item, so many at a time. */
async function forEach(items, work, atOnce = OPENING) {
  const rest = items.values();
  const worker = async () => {
    for (const item of rest) await work(item);
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
}

/**
 * Keeps so many messages of each device in flight until the time is over, and waits for the last
 * verdict. `devices` have a method `send(id, done)`, whose `done` is called once, with an error or
 * without.
 */
function round(devices, { name, milliseconds, in_flight: inFlight }) {
  return new Promise((resolve, reject) => {
    let over = false;
    let accepted = 0;
    let unsettled = 0;
    const keepOn = (device) => {
      let sent = 0;
      const next = () => {
        unsettled += 1;
        device.send(`${name}-${sent++}`, done);
      };
      const done = (error) => {
        unsettled -= 1;
        if (error) return reject(error);
        accepted += 1;
        if (!over) return next();
        if (unsettled === 0) resolve(accepted);
        return undefined;
      };
      for (let n = 0; n < inFlight; n += 1) next();
    };
    setTimeout(() => {
      over = true;
      if (unsettled === 0) resolve(accepted);
    }, milliseconds);
    devices.forEach(keepOn);
  });
}

/** Sends one message of a device. */
const sendOne = (device) =>
  new Promise((resolve, reject) => {
    device.send('open', (error) => (error ? reject(error) : resolve()));
  });

/** Serves orders. `open` makes the devices, attached. */
async function serve(open) {
  let devices = [];
  const obey = async (order) => {
    switch (order.do) {
      case 'open':
        devices = await open(order);
        return devices.length;
      case 'round':
        return round(devices, order);
      default:
        global.gc();
        return 0;
    }
  };
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const accepted = await obey(JSON.parse(line));
    process.stdout.write(`${JSON.stringify({ accepted })}\n`);
  }
  process.exit(0);
}

module.exports = { HOST, BODY, deviceKey, deviceToken, shares, forEach, sendOne, serve };
