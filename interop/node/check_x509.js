'use strict';
// Devices that are known by the thumbprint of their certificate.

const { createHash, X509Certificate } = require('crypto');
const { execFileSync } = require('child_process');
const fs = require('fs');
const os = require('os');
const path = require('path');
const { Amqp, AmqpWs } = require('azure-iot-device-amqp');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
const { Http } = require('azure-iot-device-http');
const { Message } = require('azure-iot-device');
const { run, equal, soon, refused, hubNeeds } = require('./lib/runner');
const { HOST_NAME } = require('./lib/scope');
const { settings, connectionString } = require('./lib/settings');
const { answer, call } = require('./lib/calls');
const { eventsOf } = require('./lib/events');

/** A certificate that signs itself, with its key and thumbprint. */
function certificate(t, name) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'interop-'));
  t.defer(() => fs.rmSync(folder, { recursive: true }));
  const [keyFile, certFile] = ['key.pem', 'cert.pem'].map((file) => path.join(folder, file));
  const how = ['-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'];
  execFileSync('openssl', ['req', ...how, '-subj', `/CN=${name}`, '-keyout', keyFile, '-out', certFile], { stdio: 'ignore' });
  const [key, cert] = [keyFile, certFile].map((file) => fs.readFileSync(file, 'utf8'));
  const thumbprint = createHash('sha1').update(new X509Certificate(cert).raw).digest('hex').toUpperCase();
  return { key, cert, thumbprint };
}

/** A device of this certificate, as its primary or its secondary. */
async function device(t, { thumbprint }, which = 'primaryThumbprint') {
  const made = await t.device({ authentication: { type: 'selfSigned', x509Thumbprint: { [which]: thumbprint } } });
  return { ...made, cs: connectionString({ HostName: HOST_NAME, DeviceId: made.id, x509: 'true' }) };
}

async function enter(t, cs, { key, cert }, Transport) {
  const client = t.client(cs, Transport);
  // Over HTTPS the SDK calls back only if it is also told how to poll.
  await client.setOptions({ key, cert, http: { receivePolicy: { interval: 1 } } });
  await client.open();
  await soon(client.sendEvent(new Message('by certificate')), 'settlement');
  return client;
}

const checks = {};

for (const Transport of [Amqp, AmqpWs, Mqtt, MqttWs, Http]) {
  checks[`${Transport.name}: the primary and the secondary certificate let a device in`] = async (t) => {
    const own = certificate(t, 'device');
    await enter(t, (await device(t, own)).cs, own, Transport);
    await enter(t, (await device(t, own, 'secondaryThumbprint')).cs, own, Transport);
  };

  checks[`${Transport.name}: another certificate is refused`] = async (t) => {
    const [own, other] = [certificate(t, 'device'), certificate(t, 'device')];
    await refused(enter(t, (await device(t, own)).cs, other, Transport));
  };
}

Object.assign(checks, {
  async 'a device by certificate is called, and its events say so'(t) {
    const own = certificate(t, 'device');
    for (const Transport of [Amqp, Mqtt]) {
      const known = await device(t, own);
      const client = await enter(t, known.cs, own, Transport);
      answer(client, 'echo');
      equal((await call(t.service(), known, 'echo', 1)).payload, { youSaid: 1 }, 'answer');
      if (!settings.eventHub) continue;
      const [event] = await eventsOf(t, known.id);
      const { scope, type } = JSON.parse(event.systemProperties['iothub-connection-auth-method']);
      equal([scope, type], ['device', 'x509Certificate'], 'method');
    }
  },

  async 'a device of a certificate has no key to come in with'(t) {
    const known = await device(t, certificate(t, 'device'));
    for (const Transport of [Amqp, Mqtt]) {
      const cs = connectionString({ HostName: HOST_NAME, DeviceId: known.id, SharedAccessKey: known.key });
      const client = t.client(cs, Transport);
      await refused(client.open().then(() => client.sendEvent(new Message('with a key'))));
    }
  },
});

run('X.509', checks, { needs: hubNeeds, atOnce: 3 });
