'use strict';
// Runs named checks: a line for each, a closing line, the exit status.

const { settings } = require('./settings');
const { Scope } = require('./scope');

/** Time limit of one check; the hub's own waits (60 s locks) are beyond it on purpose. */
const LIMIT_MS = 1000 * Number(process.env.HUB_CHECK_SECONDS || 30);

/** Not met: the reason is told without a stack. */
class NotMet extends Error {}

function assert(condition, text) {
  if (!condition) throw new NotMet(text);
}

function equal(got, wanted, what = 'value') {
  const [a, b] = [got, wanted].map((value) => JSON.stringify(sorted(value)));
  assert(a === b, `${what}: got ${a}, wanted ${b}`);
}

/** The same value with the keys of its objects in order, for comparing. */
function sorted(value) {
  if (value === null || typeof value !== 'object' || Buffer.isBuffer(value)) return value;
  if (Array.isArray(value)) return value.map(sorted);
  return Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])]));
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The promise's value, or a failure after a while. */
function soon(promise, what, ms = LIMIT_MS - 1000) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new NotMet(`no ${what} within ${ms / 1000} s`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** The first true value of `look`, which is tried again and again. */
async function until(look, what, ms = LIMIT_MS - 2000) {
  const end = Date.now() + ms;
  for (;;) {
    const value = await look();
    if (value) return value;
    assert(Date.now() < end, `${typeof what === 'function' ? what() : what} not seen within ${ms / 1000} s`);
    await sleep(50);
  }
}

/** The error that a promise ends with; one of these names if any are given. */
async function refused(promise, ...names) {
  let value;
  try {
    value = await soon(promise, 'refusal');
  } catch (error) {
    if (error instanceof NotMet) throw error;
    assert(error instanceof Error, `refused with ${describe(error)}, no error`);
    assert(names.length === 0 || names.includes(error.name), `expected ${names.join(' or ')}, got ${error.name}: ${error.message}`);
    return error;
  }
  throw new NotMet(`expected ${names.join(' or ') || 'a refusal'}, got ${describe(value)}`);
}

/** The error of a REST call, with this status and a body that fits. */
async function refusedWith(promise, status, text = /^/) {
  const error = await refused(promise);
  const got = error.response ? error.response.statusCode || error.response.status : error.statusCode;
  assert(got === status, `expected HTTP ${status}, got ${got || `${error.name}: ${error.message}`}`);
  const body = error.responseBody || (error.response && error.response.bodyAsText) || '';
  assert(new RegExp(text).test(body), `no ${text} in the body ${body}`);
  return error;
}

function describe(value) {
  const name = value && value.constructor ? value.constructor.name : '';
  return typeof value === 'object' ? name || 'an object' : JSON.stringify(value);
}

function reason(error) {
  if (error instanceof NotMet) return error.message;
  const status = error && error.response && error.response.statusCode;
  const body = error && error.responseBody ? ` body ${error.responseBody}` : '';
  const cause = error && error.innerError ? ` <- ${error.innerError.name}: ${error.innerError.message}` : '';
  return `${error && error.name}: ${error && error.message}${status ? ` (HTTP ${status})` : ''}${cause}${body}`
    .replace(/\s+/g, ' ')
    .slice(0, 400);
}

/**
 * Runs the checks, `atOnce` of them at a time, and those of `then` one by one after them; ends the process.
 *
 * Each check is given a scope of its own; `before` is given one that lasts. `needs` names settings
 * without which nothing can be checked, as `[name, value]` pairs.
 */
async function run(suite, checks, { atOnce = 1, then = {}, needs = [], before } = {}) {
  const only = process.argv[2];
  const [waiting, last] = [checks, then].map((group) =>
    Object.entries(group).filter(([name]) => !only || name.includes(only)),
  );
  let [passed, failed] = [0, 0];
  const fail = (name, error) => {
    failed += 1;
    console.log(`FAIL ${suite}: ${name} ${reason(error)}`);
    if (process.env.HUB_TRACE && error) console.log(error.stack);
  };
  // An SDK that throws outside of any promise would end all checks: it fails the one that it happens in.
  let stray;
  process.on('uncaughtException', (error) => stray && stray(error));
  process.on('unhandledRejection', (error) => process.env.HUB_TRACE && console.log(error));

  async function one([name, check]) {
    const scope = new Scope();
    try {
      const thrown = new Promise((_, reject) => {
        stray = reject;
      });
      await soon(Promise.race([check(scope), thrown]), 'end of the check', LIMIT_MS);
      passed += 1;
      console.log(`ok ${suite}: ${name}`);
    } catch (error) {
      fail(name, error);
    } finally {
      await scope.close();
    }
  }

  async function lane(queue) {
    for (let next = queue.shift(); next; next = queue.shift()) await one(next);
  }

  const everything = new Scope();
  try {
    const missing = needs.find(([, value]) => !value);
    assert(!missing, missing && `${missing[0]} is not set`);
    if (before) await soon(before(everything), 'end of the preparation', LIMIT_MS);
    await Promise.all(Array.from({ length: atOnce }, () => lane(waiting)));
    await lane(last);
  } catch (error) {
    for (const [name] of [...waiting, ...last]) fail(name, error);
  }
  await everything.close();
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed === 0 && passed > 0 ? 0 : 1);
}

const hubNeeds = [['HUB_SERVICE_CS', settings.service]];

module.exports = { run, assert, equal, soon, until, sleep, refused, refusedWith, NotMet, hubNeeds };
