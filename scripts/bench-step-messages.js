'use strict';
// What it costs to tell another rank of a step: encoding and writing at rank 0, reading and decoding in a second process, over loopback. One
// follower; each further one adds a write. The latency one way is half of the time from before the encoding until a first byte of the answer.
//
//   npm run build:ts && node scripts/bench-step-messages.js
//
// Prints one JSON line per kind of step and pause between steps (0: as fast as answers come; 5 ms: processes sleep between steps, as in decoding).
const { fork } = require('node:child_process');
const { once } = require('node:events');
const net = require('node:net');
const path = require('node:path');

const DIST = path.resolve(__dirname, '../dist/distributed');
const { Connection } = require(path.join(DIST, 'connection.js'));
const { FRAME_HEADER_BYTES, FrameType, writeFrameHeader } = require(path.join(DIST, 'frames.js'));
const { StepDecoder } = require(path.join(DIST, 'step-decoder.js'));
const { StepEncoder } = require(path.join(DIST, 'step-encoder.js'));

const BATCHES = [1, 32, 128, 256];
const NUM_STEPS = { 0: 2000, 5: 300 };
const NUM_WARMUP = { 0: 1000, 5: 20 };
const BLOCK_SIZE = 16;
const PROMPT_TOKENS = 2048;

const SAMPLING_PARAMS = {
  n: 1, presencePenalty: 0, frequencyPenalty: 0, repetitionPenalty: 1, temperature: 0.7, topP: 0.9, topK: 40, minP: 0, seed: 1234,
  stop: [], stopTokenIds: [], eosTokenIds: [128001, 128009], maxTokens: 512, minTokens: 0, logprobs: null, promptLogprobs: null,
  detokenize: true, skipSpecialTokens: true, spacesBetweenSpecialTokens: true, includeStopStrInOutput: false,
  outputKind: 'delta', logitBias: null, allowedTokenIds: null,
};

function newRequest(requestId, numTokens) {
  return { requestId, tokenIds: Array.from({ length: numTokens }, (_, i) => (i * 7919) % 128_000), numPromptTokens: numTokens, samplingParams: SAMPLING_PARAMS };
}

function share(requestId, numComputedTokens, numScheduledTokens) {
  const crossed = numScheduledTokens > 1 ? Math.ceil(numScheduledTokens / BLOCK_SIZE) : numComputedTokens % BLOCK_SIZE === 0 ? 1 : 0;
  return { requestId, numComputedTokens, numScheduledTokens, newBlockIds: Array.from({ length: crossed }, (_, i) => 1000 + i) };
}

function stepOf(scheduled, newRequests = [], removedRequestIds = []) {
  return { newRequests, scheduled, totalNumScheduledTokens: scheduled.reduce((sum, s) => sum + s.numScheduledTokens, 0), removedRequestIds };
}

/** Steps that decode a batch: each request one token, and every 16 steps a block, at different times. */
function decodeSteps(batch) {
  const ids = Array.from({ length: batch }, (_, i) => `cmpl-5f2b7c1e-${i}`);
  const first = stepOf(ids.map((id, i) => share(id, 0, 100 + i)), ids.map((id, i) => newRequest(id, 100 + i)));
  return { first, next: (round) => stepOf(ids.map((id, i) => share(id, 100 + i + round, 1))) };
}

/** Steps of a batch of 32 in which one request leaves and one with a long prompt comes. */
function stepsWithNewRequest() {
  const { first, next } = decodeSteps(31);
  const arriving = Array.from({ length: 8 }, (_, i) => newRequest(`cmpl-new-${i}`, PROMPT_TOKENS));
  return {
    first,
    next(round) {
      const request = { ...arriving[round % 8], requestId: `cmpl-new-${round}` };
      const { scheduled } = next(round);
      return stepOf([...scheduled, share(request.requestId, 0, PROMPT_TOKENS)], [request], round === 0 ? [] : [`cmpl-new-${round - 1}`]);
    },
  };
}

const micros = (list, share_) => Math.round(10 * [...list].sort((a, b) => a - b)[Math.floor(share_ * (list.length - 1))]) / 10;
const summary = (list) => ({ median: micros(list, 0.5), p99: micros(list, 0.99) });

/** The second process: reads steps, and answers each. */
function follow() {
  const server = net.createServer((socket) => {
    const decoder = new StepDecoder();
    let times = [];
    let from = 0;
    socket.on('data', () => { from = performance.now(); });
    const connection = new Connection(socket);
    connection.onFrame = (type, payload) => {
      if (type === FrameType.fail) {
        process.send(times);
        times = [];
        return;
      }
      decoder.decode(payload);
      times.push(1e3 * (performance.now() - from));
      connection.send(FrameType.start);
    };
  });
  server.listen(0, '127.0.0.1', () => process.send(server.address().port));
}

/** Microseconds of each step: at rank 0, and there and back. */
async function measure(connection, encoder, next, numSteps, pauseMs, startRound) {
  const send = [];
  const roundTrip = [];
  let bytes = 0;
  for (let round = 0; round < numSteps; round++) {
    const step = next(startRound + round);
    const answered = new Promise((resolve) => { connection.onFrame = () => resolve(performance.now()); });
    const from = performance.now();
    const frame = writeFrameHeader(encoder.encode(step), FrameType.step);
    if (!connection.sendFrame(frame)) encoder.keep();
    send.push(1e3 * (performance.now() - from));
    roundTrip.push(1e3 * ((await answered) - from));
    bytes = frame.length;
    if (pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
  return { send, roundTrip, bytes };
}

async function bench(child, port, name, { first, next }) {
  const connection = new Connection(net.connect(port, '127.0.0.1'));
  const encoder = new StepEncoder(FRAME_HEADER_BYTES);
  const timesOfChild = async () => {
    const answer = once(child, 'message');
    connection.send(FrameType.fail);
    return (await answer)[0];
  };
  await measure(connection, encoder, () => first, 1, 0, 0);
  let round = 0;
  for (const pauseMs of [0, 5]) {
    await measure(connection, encoder, next, NUM_WARMUP[pauseMs], pauseMs, round);
    await timesOfChild();
    round += NUM_WARMUP[pauseMs];
    const { send, roundTrip, bytes } = await measure(connection, encoder, next, NUM_STEPS[pauseMs], pauseMs, round);
    round += NUM_STEPS[pauseMs];
    const receive = await timesOfChild();
    const total = send.map((time, i) => time + receive[i]);
    console.log(JSON.stringify({
      step: name, pauseMs, bytes, encodeAndWriteMicros: summary(send), readAndDecodeMicros: summary(receive), totalMicros: summary(total),
      oneWayMicros: summary(roundTrip.map((time) => time / 2)),
    }));
  }
  connection.destroy();
}

async function main() {
  const child = fork(__filename, ['--follow']);
  const [port] = await once(child, 'message');
  for (const batch of BATCHES) await bench(child, port, `decode, batch ${batch}`, decodeSteps(batch));
  await bench(child, port, `batch 32, one new request of ${PROMPT_TOKENS} tokens`, stepsWithNewRequest());
  child.kill();
}

if (process.argv[2] === '--follow') follow();
else main();
