'use strict';
// Where the hub is, from the environment, and the way there below the SDKs.

const fs = require('fs');
const tls = require('tls');

const env = process.env;

/** The fields of a connection string. A value may hold `=`. */
function fields(connectionString) {
  const pairs = (connectionString || '').split(';').filter((pair) => pair.includes('='));
  return Object.fromEntries(pairs.map((pair) => [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)]));
}

/** A connection string of these fields; those that are undefined are left out. */
function connectionString(values) {
  return Object.entries(values)
    .filter(([, value]) => value !== undefined)
    .map((pair) => pair.join('='))
    .join(';');
}

const settings = {
  host: env.HUB_HOST || 'localhost',
  ports: {
    5671: Number(env.HUB_AMQPS_PORT || 5671),
    8883: Number(env.HUB_MQTTS_PORT || 8883),
    443: Number(env.HUB_HTTPS_PORT || 443),
  },
  ca: env.HUB_CA ? fs.readFileSync(env.HUB_CA, 'utf8') : undefined,
  service: env.HUB_SERVICE_CS || '',
  eventHub: env.EVENTHUB_CS || '',
  consumerGroup: env.HUB_CONSUMER_GROUP || '$Default',
  provisioning: {
    host: env.DPS_HOST || '',
    scope: env.DPS_ID_SCOPE || '',
    groupKey: env.DPS_GROUP_KEY || '',
    service: env.DPS_SERVICE_CS || '',
  },
  control: env.HUB_CONTROL_URL || '',
};

// The SDKs know the ports 5671, 8883 and 443 only, and some take no certificate of an authority. Host, port and trust
// are turned here; the server name stays the one that the SDK asked for.
const connect = tls.connect;
tls.connect = (...args) => {
  const options = Object.assign({}, ...args.filter((arg) => arg !== null && typeof arg === 'object'));
  const callback = args.find((arg) => typeof arg === 'function');
  const port = Number(typeof args[0] === 'number' ? args[0] : options.port);
  const host = typeof args[1] === 'string' ? args[1] : options.host;
  return connect(
    {
      ...options,
      host: settings.host,
      port: settings.ports[port] || port,
      servername: options.servername || host,
      ca: settings.ca || options.ca,
    },
    callback,
  );
};

module.exports = { settings, fields, connectionString };
