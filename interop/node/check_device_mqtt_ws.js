'use strict';
// A device over MQTT in WebSocket frames.

const { MqttWs } = require('azure-iot-device-mqtt');
const { run, hubNeeds } = require('./lib/runner');
const { deviceChecks } = require('./lib/device_checks');

run('device MQTT WebSocket', deviceChecks(MqttWs), { needs: hubNeeds });
