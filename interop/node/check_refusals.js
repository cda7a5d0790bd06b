'use strict';
// Who may not come in, or may not stay, on each protocol.

const { once } = require('events');
const { Amqp, AmqpWs } = require('azure-iot-device-amqp');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
const { Http } = require('azure-iot-device-http');
const { Client, Message } = require('azure-iot-device');
const { run, assert, equal, soon, sleep, refused, until, hubNeeds } = require('./lib/runner');
const { registry, newId, newKey, HOST_NAME } = require('./lib/scope');
const { sasToken, later } = require('./lib/calls');

const transports = { AMQP: Amqp, 'AMQP WebSocket': AmqpWs, MQTT: Mqtt, 'MQTT WebSocket': MqttWs, HTTPS: Http };

/** Comes in and sends; over HTTPS there is nothing but sending. */
async function enter(client) {
  await client.open();
  await client.sendEvent(new Message('am I in?'));
  return client;
}

/** That the hub refused, not the network: MQTT clients call anything unauthorized. */
function told(error, name) {
  if (/MQTT/.test(name)) assert(/Not authorized/i.test(error.message), `refused without CONNACK 5: ${error.message}`);
}

/** A client with a fixed token of the device, valid for so many seconds. */
function withToken(t, device, seconds, Transport, resource = `${HOST_NAME}/devices/${device.id}`) {
  const token = sasToken({ SharedAccessKey: device.key }, resource, later(seconds));
  return t.keep(Client.fromSharedAccessSignature(token, Transport));
}

const checks = {};

for (const [name, Transport] of Object.entries(transports)) {
  checks[`${name}: a wrong key is unauthorized, the secondary key is good`] = async (t) => {
    const device = await t.device();
    const wrong = t.client(device.cs.replace(device.key, newKey()), Transport);
    told(await refused(enter(wrong), 'UnauthorizedError'), name);
    await soon(enter(t.client(device.cs.replace(device.key, device.secondaryKey), Transport)), 'entry');
  };

  checks[`${name}: an unknown device is refused`] = async (t) => {
    const device = await t.device();
    const ghost = t.client(device.cs.replace(device.id, newId('ghost')), Transport);
    told(await refused(enter(ghost)), name);
  };

  checks[`${name}: a disabled device is refused, and put out if it was in`] = async (t) => {
    const device = await t.device();
    const client = await soon(enter(t.client(device.cs, Transport)), 'entry');
    const gone = Transport === Http ? undefined : once(client, 'disconnect');
    await registry().update({ ...device.identity, status: 'disabled' });
    if (gone) await soon(gone, 'end of the connection');
    else await refused(client.sendEvent(new Message('still there?')));
    told(await refused(enter(t.client(device.cs, Transport))), name);
    await registry().update({ ...device.identity, status: 'enabled' });
    await soon(enter(t.client(device.cs, Transport)), 'entry');
  };

  checks[`${name}: a deleted device is put out`] = async (t) => {
    const device = await t.device();
    const client = await soon(enter(t.client(device.cs, Transport)), 'entry');
    const gone = Transport === Http ? undefined : once(client, 'disconnect');
    await registry().delete(device.id);
    if (gone) await soon(gone, 'end of the connection');
    else await refused(client.sendEvent(new Message('still there?')));
  };

  checks[`${name}: a token that has expired is refused`] = async (t) => {
    const device = await t.device();
    told(await refused(enter(withToken(t, device, -600, Transport)), 'UnauthorizedError'), name);
  };

  checks[`${name}: a token that expires ends the stay`] = async (t) => {
    const device = await t.device();
    const client = await soon(enter(withToken(t, device, 6, Transport)), 'entry');
    if (Transport === Http) {
      await sleep(7500);
      await refused(client.sendEvent(new Message('too late')), 'UnauthorizedError');
    } else {
      await soon(once(client, 'disconnect'), 'end of the stay', 20000);
    }
  };

  checks[`${name}: another device's token is refused`] = async (t) => {
    const [device, other] = [await t.device(), await t.device()];
    const token = sasToken({ SharedAccessKey: device.key }, `${HOST_NAME}/devices/${other.id}`, later());
    const thief = t.keep(Client.fromSharedAccessSignature(token, Transport));
    told(await refused(enter(thief), 'UnauthorizedError'), name);
  };

  if (Transport !== Http) {
    checks[`${name}: a token is renewed in time, and the stay goes on`] = async (t) => {
      const device = await t.device();
      const client = t.client(device.cs, Transport);
      await client.setOptions({ tokenRenewal: { tokenValidTimeInSeconds: 5, tokenRenewalMarginInSeconds: 3 } });
      let ends = 0;
      client.on('disconnect', () => {
        ends += 1;
      });
      await enter(client);
      const start = Date.now();
      await until(async () => {
        await client.sendEvent(new Message('still here'));
        await sleep(300);
        return Date.now() - start > 8000;
      }, 'eight seconds');
      equal(ends, 0, 'disconnections');
    };
  }
}

run('refusals', checks, { needs: hubNeeds, atOnce: 8 });
