'use strict';
// Reading telemetry back through the Event Hubs-compatible endpoint.

const { EventHubConsumerClient } = require('@azure/event-hubs');
const WebSocket = require('ws');
const { settings } = require('./settings');
const { assert, until, soon } = require('./runner');

// Readers begin where the file did: what other checks have sent before is theirs.
const STARTED = Date.now() - 5000;

/** A consumer client that fails at once. */
function consumer(t, { cs = settings.eventHub, group = settings.consumerGroup, overWebSocket = false } = {}) {
  assert(cs, 'EVENTHUB_CS is not set');
  const client = new EventHubConsumerClient(group, cs, {
    retryOptions: { maxRetries: 0, timeoutInMs: 10000 },
    webSocketOptions: overWebSocket ? { webSocket: WebSocket } : undefined,
  });
  t.defer(() => client.close());
  return client;
}

/** Listens to one partition, or to all: the events and errors so far, and a wait for events that fit. */
function listen(t, client, { partition, startPosition = { enqueuedOn: STARTED }, ...more } = {}) {
  const [events, errors] = [[], []];
  let last;
  const handlers = {
    processEvents: async (batch, context) => {
      for (const event of batch) events.push({ event, partition: context.partitionId });
      last = context.lastEnqueuedEventProperties;
    },
    processError: async (error) => {
      errors.push(error);
    },
  };
  const options = { startPosition, maxBatchSize: 200, maxWaitTimeInSeconds: 1, skipParsingBodyAsJson: true, ...more };
  const subscription =
    partition === undefined ? client.subscribe(handlers, options) : client.subscribe(partition, handlers, options);
  t.defer(() => subscription.close());
  const fitting = (fits) => events.filter(({ event }) => fits(event));
  return {
    events,
    errors,
    last: () => last,
    stop: () => subscription.close(),
    async wait(fits, count = 1) {
      return until(() => {
        if (errors.length > 0) throw errors[0];
        const found = fitting(fits);
        return found.length >= count && found;
      }, () => `${count} events (of ${events.length} that came)`);
    },
  };
}

const ofDevice = (id) => (event) => (event.systemProperties || {})['iothub-connection-device-id'] === id;

/** The events of a device, of those enqueued in the last minute. */
async function eventsOf(t, id, count = 1) {
  const reader = listen(t, consumer(t), { startPosition: { enqueuedOn: Date.now() - 60_000 } });
  const found = await soon(reader.wait(ofDevice(id), count), `${count} events of ${id}`);
  return found.map(({ event }) => event);
}

module.exports = { consumer, listen, ofDevice, eventsOf };
