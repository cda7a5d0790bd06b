'use strict';
// What the service side does in many checks: direct methods, desired properties, C2D messages.

const https = require('https');
const { Message } = require('azure-iot-common');
const { RestApiClient } = require('azure-iot-http-base');
const { SharedAccessSignature } = require('azure-iothub');
const { settings, fields } = require('./settings');
const { newId, HOST_NAME } = require('./scope');
const { soon, sleep, until } = require('./runner');

const later = (seconds = 3600) => Math.floor(Date.now() / 1000) + seconds;

/** A token of the service policy, or of another policy or device that is given. */
function sasToken(signer = fields(settings.service), resource = HOST_NAME, expiry = later()) {
  return SharedAccessSignature.create(resource, signer.SharedAccessKeyName, signer.SharedAccessKey, expiry).toString();
}

/** A REST call that the service SDK has no method for, made with the SDKs' own client: `{ result, response }`. */
function rest(method, path, { body = null, headers = {}, token = sasToken() } = {}) {
  const client = new RestApiClient({ host: HOST_NAME, sharedAccessSignature: token }, 'interop');
  const json = body === null ? headers : { 'Content-Type': 'application/json; charset=utf-8', ...headers };
  const url = `${path}${path.includes('?') ? '&' : '?'}api-version=2021-04-12`;
  return new Promise((resolve, reject) => {
    client.executeApiCall(method, url, json, body, (error, result, response) =>
      error ? reject(error) : resolve({ result, response }),
    );
  });
}

/** A GET whose body the SDKs' client would not give, since it is of another type: `{ status, headers, body }`. */
function get(path) {
  const options = {
    host: HOST_NAME,
    path: `${path}?api-version=2021-04-12`,
    headers: { Authorization: sasToken() },
  };
  return new Promise((resolve, reject) => {
    const request = https.get(options, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (more) => (body += more));
      response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, body }));
    });
    request.on('error', reject);
  });
}

/** Calls a direct method once: `{ status, payload }`. */
async function callOnce(service, target, methodName, payload, seconds = 10, connectSeconds = 0) {
  const parameters = { methodName, payload, responseTimeoutInSeconds: seconds, connectTimeoutInSeconds: connectSeconds };
  const answer = target.deviceId
    ? await service.invokeDeviceMethod(target.deviceId, target.id, parameters)
    : await service.invokeDeviceMethod(target.id, parameters);
  return answer.result;
}

const isOffline = (error) => error.response && error.response.statusCode === 404 && /404103/.test(error.responseBody);

/** Calls a direct method, again while the device has not yet subscribed: the SDK does not say when it has. */
async function call(service, target, methodName, payload, seconds = 10) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await callOnce(service, target, methodName, payload, seconds);
    } catch (error) {
      if (attempt === 50 || !isOffline(error)) throw error;
      await sleep(100);
    }
  }
}

/** Answers a direct method of a device client with a status and what it was given. */
function answer(client, method, status = 200, reply = (payload) => ({ youSaid: payload })) {
  const listen = (client.onMethod || client.onDeviceMethod).bind(client);
  listen(method, (request, response) => {
    response.send(status, reply(request.payload)).catch(() => {});
  });
}

/** Changes desired properties until the listening device hears of a change: the patch that it was told. */
async function tellDesired(twin, change) {
  const sent = new Set();
  let heard;
  twin.on('properties.desired', (patch) => {
    if (sent.has(patch.mark)) heard = patch;
  });
  return until(async () => {
    const mark = newId('mark');
    sent.add(mark);
    await change({ mark });
    await sleep(200);
    return heard;
  }, 'notification of desired properties');
}

/** A C2D message with everything that the service SDK can set. */
function c2dMessage(body, { ack, properties = {}, ...more } = {}) {
  const message = new Message(body);
  message.messageId = newId('c2d');
  if (ack) message.ack = ack;
  Object.assign(message, more);
  for (const [name, value] of Object.entries(properties)) message.properties.add(name, value);
  return message;
}

/** Listens for C2D messages: those that came so far, and a wait for one of them by its id. */
function inbox(client) {
  const seen = [];
  const waiting = [];
  client.on('message', (message) => {
    seen.push(message);
    for (const look of [...waiting]) look();
  });
  const next = (wanted, what = 'C2D message') =>
    soon(
      new Promise((resolve) => {
        const look = () => {
          const found = seen.find(wanted);
          if (!found) return;
          seen.splice(seen.indexOf(found), 1);
          waiting.splice(waiting.indexOf(look), 1);
          resolve(found);
        };
        waiting.push(look);
        look();
      }),
      what,
    );
  return { seen, next, byId: (id) => next((message) => message.messageId === id, `C2D message ${id}`) };
}

module.exports = { get, rest, sasToken, later, callOnce, call, answer, tellDesired, c2dMessage, inbox };
