'use strict';
// node run_all.js [WORD ...]: every check_*.js, or those whose names hold a word; then one closing line.
//
// The files run side by side, since most of their time is waiting for what the hub does late.

const fs = require('fs');
const path = require('path');
const readline = require('readline');
const { spawn } = require('child_process');

const AT_ONCE = Number(process.env.HUB_CHECK_FILES || 4);
// Files that run side by side share no consumer group, if there are enough: a group lets five read a partition.
const groups = (process.env.HUB_CONSUMER_GROUPS || '$Default').split(' ');
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

/** Runs one file and adds up what it says. */
async function run(file, lane) {
  const own = groups.filter((_, index) => groups.length < AT_ONCE || index % AT_ONCE === lane);
  const child = spawn(process.execPath, [path.join(__dirname, file)], {
    stdio: ['ignore', 'pipe', 'ignore'],
    env: { ...process.env, HUB_CONSUMER_GROUPS: own.join(' ') },
  });
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

async function work(lane) {
  for (let file = files.shift(); file; file = files.shift()) await run(file, lane);
}

const none = files.length === 0;
Promise.all(Array.from({ length: AT_ONCE }, (_, lane) => work(lane))).then(() => {
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed > 0 || none ? 1 : 0;
});
