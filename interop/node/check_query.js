'use strict';
// Queries of devices and their twins.

const { run, assert, equal, refusedWith, hubNeeds } = require('./lib/runner');
const { registry, newId } = require('./lib/scope');

/** All rows of a query, page by page, and how many pages there were. */
async function rows(sql, pageSize, as = 'nextAsTwin') {
  const query = registry().createQuery(sql, pageSize);
  const found = [];
  let pages = 0;
  do {
    const { result } = await query[as]();
    found.push(...result);
    pages += 1;
  } while (query.hasMoreResults && pages < 50);
  return { found, pages, ids: found.map((row) => row.deviceId).sort() };
}

const run7 = newId('q');
const name = (index) => `${run7}-${index}`;
const mine = `tags.run = '${run7}'`;

const checks = {
  async 'all devices are found'() {
    const { ids } = await rows('SELECT * FROM devices');
    for (let index = 0; index < 7; index += 1) assert(ids.includes(name(index)), `${name(index)} is found`);
  },

  async 'a tag is a condition, and rows are twins'() {
    const { found, ids } = await rows(`SELECT * FROM devices WHERE ${mine}`);
    equal(ids, [0, 1, 2, 3, 4, 5, 6].map(name), 'devices');
    const twin = found.find((row) => row.deviceId === name(3));
    equal([twin.tags.number, twin.properties.desired.rate, twin.status], [3, 30, 'enabled'], 'twin');
    await twin.update({ tags: { touched: true } });
  },

  async 'an id is a condition, alone and in a list'() {
    equal((await rows(`SELECT * FROM devices WHERE deviceId = '${name(2)}'`)).ids, [name(2)], 'one');
    equal((await rows(`SELECT * FROM devices WHERE deviceId IN ['${name(1)}', '${name(4)}']`)).ids, [1, 4].map(name), 'two');
    equal((await rows(`SELECT * FROM devices WHERE deviceId = '${newId('ghost')}'`)).ids, [], 'none');
  },

  async 'numbers are compared'() {
    equal((await rows(`SELECT * FROM devices WHERE ${mine} AND tags.number >= 5`)).ids, [5, 6].map(name), '>=');
    equal((await rows(`SELECT * FROM devices WHERE ${mine} AND properties.desired.rate < 20`)).ids, [0, 1].map(name), '<');
    equal((await rows(`SELECT * FROM devices WHERE ${mine} AND tags.number <> 0 AND tags.number != 1`)).ids, [2, 3, 4, 5, 6].map(name), '<>');
  },

  async 'conditions are joined by AND, OR, NOT and brackets'() {
    const where = `${mine} AND (tags.number = 0 OR tags.even = false) AND NOT tags.number = 5`;
    equal((await rows(`select * from devices where ${where}`)).ids, [0, 1, 3].map(name), 'devices');
  },

  async 'status and connection state are conditions'() {
    equal((await rows(`SELECT * FROM devices WHERE ${mine} AND status = 'disabled'`)).ids, [name(6)], 'disabled');
    equal((await rows(`SELECT * FROM devices WHERE ${mine} AND connectionState = 'Connected'`)).ids, [], 'connected');
  },

  async 'functions are conditions'() {
    equal((await rows(`SELECT * FROM devices WHERE STARTSWITH(deviceId, '${run7}') AND is_defined(tags.odd)`)).ids, [1, 3, 5].map(name), 'is_defined');
  },

  async 'results come in pages'() {
    const { ids, pages } = await rows(`SELECT * FROM devices WHERE ${mine}`, 3);
    equal([ids.length, new Set(ids).size, pages], [7, 7, 3], 'rows, different rows, pages');
  },

  async 'columns are chosen'() {
    const { found } = await rows(`SELECT deviceId, tags.number AS n FROM devices WHERE ${mine} AND tags.number = 4`, 10, 'next');
    equal(found, [{ deviceId: name(4), n: 4 }], 'rows');
  },

  async 'rows are counted'() {
    const { found } = await rows(`SELECT COUNT() AS total FROM devices WHERE ${mine}`, 10, 'next');
    equal(found, [{ total: 7 }], 'rows');
  },

  async 'modules are found'() {
    const { found } = await rows(`SELECT * FROM devices.modules WHERE deviceId = '${name(0)}'`, 10, 'next');
    equal(found.map((row) => [row.deviceId, row.moduleId]), [[name(0), 'part']], 'rows');
  },

  async 'a query that is no query is refused'() {
    for (const sql of ['SELECT', 'DROP TABLE devices', "SELECT * FROM devices WHERE tags.a = 'open"]) {
      await refusedWith(registry().createQuery(sql).next(), 400);
    }
  },
};

async function before(t) {
  const made = Array.from({ length: 7 }, (_, index) => index).map(async (index) => {
    const device = await t.device({ deviceId: name(index), status: index === 6 ? 'disabled' : 'enabled' });
    const tags = { run: run7, number: index, even: index % 2 === 0, ...(index % 2 ? { odd: 1 } : {}) };
    await registry().updateTwin(device.id, { tags, properties: { desired: { rate: index * 10 } } }, '*');
    if (index === 0) await t.module(device, 'part');
  });
  await Promise.all(made);
}

run('queries', checks, { needs: hubNeeds, atOnce: 3, before });
