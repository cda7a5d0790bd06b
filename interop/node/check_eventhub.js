'use strict';
// The Event Hubs-compatible endpoint, with the Event Hubs SDK.

const { latestEventPosition, earliestEventPosition } = require('@azure/event-hubs');
const { Amqp } = require('azure-iot-device-amqp');
const { Mqtt } = require('azure-iot-device-mqtt');
const { Message } = require('azure-iot-device');
const { run, assert, equal, refused, soon, sleep, until, hubNeeds } = require('./lib/runner');
const { settings, fields, connectionString } = require('./lib/settings');
const { newKey } = require('./lib/scope');
const { consumer, listen, ofDevice } = require('./lib/events');

/** A device that has sent these bodies, and the partition of its events. */
async function sender(t, bodies, Transport = Amqp) {
  const device = await t.device();
  const client = await t.open(device, Transport);
  for (const body of bodies) await client.sendEvent(new Message(body));
  const reader = listen(t, consumer(t), { startPosition: { enqueuedOn: Date.now() - 20_000 } });
  const found = await reader.wait(ofDevice(device.id), bodies.length);
  await reader.stop();
  return { device, client, found, partition: found[0].partition };
}

const text = (event) => (Buffer.isBuffer(event.body) ? event.body.toString() : String(event.body));
const numbers = (count) => Array.from({ length: count }, (_, i) => String(i));

const checks = {
  async 'partitions are named and described'(t) {
    const client = consumer(t);
    const hub = await soon(client.getEventHubProperties(), 'properties');
    equal(hub.name, fields(settings.eventHub).EntityPath, 'name');
    assert(hub.createdOn instanceof Date && !Number.isNaN(hub.createdOn.getTime()), 'createdOn');
    const ids = await client.getPartitionIds();
    equal(ids, hub.partitionIds, 'partition ids');
    assert(ids.length >= 2, `${ids.length} partitions`);
    const one = await client.getPartitionProperties(ids[0]);
    equal([one.partitionId, one.eventHubName], [ids[0], hub.name], 'partition');
    assert(typeof one.lastEnqueuedSequenceNumber === 'number' && typeof one.isEmpty === 'boolean', JSON.stringify(one));
  },

  async 'a partition that is not there is refused'(t) {
    await refused(consumer(t).getPartitionProperties('99'));
  },

  async "a partition's properties follow its events"(t) {
    const { client, found, partition } = await sender(t, ['first']);
    const before = await consumer(t).getPartitionProperties(partition);
    assert(before.lastEnqueuedSequenceNumber >= found[0].event.sequenceNumber, 'last sequence number');
    assert(!before.isEmpty, 'not empty');
    await client.sendEvent(new Message('second'));
    const after = await consumer(t).getPartitionProperties(partition);
    assert(after.lastEnqueuedSequenceNumber > before.lastEnqueuedSequenceNumber, 'the number rises');
    assert(after.lastEnqueuedOnUtc >= before.lastEnqueuedOnUtc, 'the time goes on');
  },

  async 'telemetry of one device is in one partition, in order'(t) {
    const { found } = await sender(t, numbers(100));
    equal(found.map(({ event }) => text(event)), numbers(100), 'bodies');
    equal(new Set(found.map(({ partition }) => partition)).size, 1, 'partitions');
    const rising = found.every(({ event }, i) => i === 0 || event.sequenceNumber > found[i - 1].event.sequenceNumber);
    assert(rising, 'sequence numbers rise');
    const offsets = found.map(({ event }) => BigInt(event.offset));
    assert(offsets.every((offset, i) => i === 0 || offset > offsets[i - 1]), 'offsets rise');
    assert(found.every(({ event }) => Math.abs(event.enqueuedTimeUtc - Date.now()) < 60_000), 'enqueued time');
  },

  async 'reading from an offset leaves that event out, inclusively takes it in'(t) {
    const { device, found, partition } = await sender(t, numbers(6));
    const from = async (startPosition) => {
      const reader = listen(t, consumer(t), { partition, startPosition });
      const got = await reader.wait((event) => ofDevice(device.id)(event) && text(event) === '5');
      assert(got.length === 1, 'the last event once');
      await reader.stop();
      return reader.events.filter(({ event }) => ofDevice(device.id)(event)).map(({ event }) => text(event));
    };
    const third = found[2].event;
    equal(await from({ offset: third.offset }), ['3', '4', '5'], 'after the offset');
    equal(await from({ offset: third.offset, isInclusive: true }), ['2', '3', '4', '5'], 'from the offset');
    equal(await from({ sequenceNumber: third.sequenceNumber }), ['3', '4', '5'], 'after the sequence number');
    equal(await from({ sequenceNumber: third.sequenceNumber, isInclusive: true }), ['2', '3', '4', '5'], 'from it');
  },

  async 'reading from an enqueued time leaves out what was before'(t) {
    const { device, client, partition } = await sender(t, ['old']);
    await sleep(50);
    const enqueuedOn = Date.now();
    await sleep(50);
    await client.sendEvent(new Message('new'));
    const reader = listen(t, consumer(t), { partition, startPosition: { enqueuedOn } });
    await reader.wait((event) => ofDevice(device.id)(event) && text(event) === 'new');
    equal(reader.events.filter(({ event }) => ofDevice(device.id)(event)).length, 1, 'events of the device');
  },

  async 'reading from the latest leaves out all that was, from the earliest takes all in'(t) {
    const { device, client, partition } = await sender(t, ['before']);
    const [late, early] = [latestEventPosition, earliestEventPosition].map((startPosition) =>
      listen(t, consumer(t), { partition, startPosition }),
    );
    await early.wait((event) => ofDevice(device.id)(event) && text(event) === 'before');
    // The SDK does not say when a reader stands at the end: send until it hears.
    let count = 0;
    await until(async () => {
      await client.sendEvent(new Message(`after ${(count += 1)}`));
      await sleep(100);
      return late.events.some(({ event }) => ofDevice(device.id)(event));
    }, 'an event at the latest');
    assert(!late.events.some(({ event }) => text(event) === 'before'), 'the earlier event was left out');
    assert(late.errors.length === 0, String(late.errors[0]));
  },

  async 'the hub stamps who sent it, how and when'(t) {
    const { device, found } = await sender(t, ['stamped']);
    const { systemProperties: stamps } = found[0].event;
    equal(stamps['iothub-connection-device-id'], device.id, 'device');
    equal(stamps['iothub-connection-auth-generation-id'], device.identity.generationId, 'generation');
    equal(stamps['iothub-message-source'], 'Telemetry', 'source');
    equal(
      JSON.parse(stamps['iothub-connection-auth-method']),
      { scope: 'device', type: 'sas', issuer: 'iothub', acceptingIpFilterRule: null },
      'method',
    );
    assert(Math.abs(new Date(stamps['iothub-enqueuedtime']) - Date.now()) < 60_000, `time ${stamps['iothub-enqueuedtime']}`);
  },

  async 'a waiting reader is told of new events at once'(t) {
    const { device, client, partition } = await sender(t, ['first'], Mqtt);
    const reader = listen(t, consumer(t), { partition, startPosition: { enqueuedOn: Date.now() - 20_000 } });
    await reader.wait(ofDevice(device.id));
    const start = Date.now();
    await client.sendEvent(new Message('second'));
    await reader.wait(ofDevice(device.id), 2);
    assert(Date.now() - start < 3000, `${Date.now() - start} ms`);
  },

  async 'readers of one group, and of other groups, each see every event'(t) {
    const { device, partition } = await sender(t, ['for all']);
    const groups = [settings.consumerGroup, settings.consumerGroup, '$Default'];
    const readers = groups.map((group) => listen(t, consumer(t, { group }), { partition }));
    for (const reader of readers) await reader.wait(ofDevice(device.id));
  },

  async 'a consumer group that is not there is refused'(t) {
    const reader = listen(t, consumer(t, { group: 'no-such-group' }), { partition: '0' });
    await until(() => reader.errors.length > 0, 'an error');
  },

  async 'the last enqueued event is told along'(t) {
    const { device, found, partition } = await sender(t, ['tracked']);
    const reader = listen(t, consumer(t), { partition, trackLastEnqueuedEventProperties: true });
    await reader.wait(ofDevice(device.id));
    const last = reader.last();
    assert(last && last.sequenceNumber >= found[0].event.sequenceNumber, JSON.stringify(last));
    assert(last.offset && last.enqueuedOn && last.retrievedOn, JSON.stringify(last));
  },

  async 'an owner of a higher level takes a partition from a lower one'(t) {
    // Owners shut everybody else out of a partition: they have a group to themselves.
    const group = 'owners';
    const low = listen(t, consumer(t, { group }), { partition: '1', ownerLevel: 1 });
    await sleep(1500);
    assert(low.errors.length === 0, String(low.errors[0]));
    const high = listen(t, consumer(t, { group }), { partition: '1', ownerLevel: 2 });
    await until(() => low.errors.length > 0, 'loss of the partition');
    equal(low.errors[0].code, 'ReceiverDisconnectedError', 'code');
    const lower = listen(t, consumer(t, { group }), { partition: '1', ownerLevel: 1 });
    await until(() => lower.errors.length > 0, 'refusal of a lower level');
    equal([lower.errors[0].code, high.errors.length], ['ReceiverDisconnectedError', 0], 'code, and errors of the owner');
  },

  async 'a wrong key is unauthorized'(t) {
    const cs = connectionString({ ...fields(settings.eventHub), SharedAccessKey: newKey() });
    const error = await refused(consumer(t, { cs }).getPartitionIds());
    equal(error.code, 'UnauthorizedError', 'code');
  },

  async 'events are read over WebSocket'(t) {
    const { device, partition } = await sender(t, ['through the web']);
    const client = consumer(t, { overWebSocket: true });
    assert((await soon(client.getPartitionIds(), 'partition ids')).length > 0, 'partitions');
    await listen(t, client, { partition }).wait(ofDevice(device.id));
  },
};

run('Event Hubs', checks, { needs: [...hubNeeds, ['EVENTHUB_CS', settings.eventHub]], atOnce: 4 });
