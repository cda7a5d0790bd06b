'use strict';
// node run_all.js [WORD ...]: every check_*.js, or those whose names hold a word; then one closing line.
//
// The files run side by side, since most of their time is waiting for what the hub does late.

const fs = require('fs');
const path = require('path');
const readline = require('readline');
const { spawn } = require('child_process');

const AT_ONCE = Number(process.env.HUB_CHECK_FILES || 4);
const groups = (process.env.HUB_CONSUMER_GROUPS || '').split(',').filter(Boolean);
const words = process.argv.slice(2);
// Feedback waits longest: it goes first.
const slow = ['check_feedback.js', 'check_refusals.js', 'check_provisioning.js'];
const files = fs
  .readdirSync(__dirname)
  .filter((file) => /^check_.*\.js$/.test(file))
  .filter((file) => words.length === 0 || words.some((word) => file.includes(word)))
  // Faults need the simulator's own endpoint, which no other hub has.
  .filter((file) => file !== 'check_faults.js' || process.env.HUB_CONTROL_URL)
  .sort((a, b) => slow.includes(b) - slow.includes(a) || a.localeCompare(b));

let [passed, failed] = [0, 0];

/** Runs one file and adds up what it says. Files side by side read events in groups of their own, if there are any. */
async function run(file, place) {
  const group = groups[place % groups.length];
  const env = group ? { ...process.env, HUB_CONSUMER_GROUP: group } : process.env;
  const child = spawn(process.execPath, [path.join(__dirname, file)], { env, stdio: ['ignore', 'pipe', 'ignore'] });
  const ended = new Promise((resolve) => child.on('close', resolve));
  let closing;
  for await (const line of readline.createInterface({ input: child.stdout })) {
    const match = /^(\d+) passed, (\d+) failed$/.exec(line);
    if (match) closing = match;
    else console.log(line);
  }
  const code = await ended;
  if (closing) {
    passed += Number(closing[1]);
    failed += Number(closing[2]);
  } else {
    failed += 1;
    console.log(`FAIL ${file} ended with ${code} and no closing line`);
  }
}

async function lane(place) {
  for (let file = files.shift(); file; file = files.shift()) await run(file, place);
}

const none = files.length === 0;
Promise.all(Array.from({ length: AT_ONCE }, (_, place) => lane(place))).then(() => {
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed > 0 || none ? 1 : 0;
});
