'use strict';
// A device over AMQP in WebSocket frames.

const { AmqpWs } = require('azure-iot-device-amqp');
const { run, hubNeeds } = require('./lib/runner');
const { deviceChecks } = require('./lib/device_checks');

run('device AMQP WebSocket', deviceChecks(AmqpWs), { needs: hubNeeds });
