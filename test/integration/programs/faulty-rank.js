'use strict';
// A module for workerImports: a Llama of which one rank ends in a way of one's choice, when it loads, runs a prompt, or generates.
// FAULT is JSON: { "rank": 0.., "phase": "start" | "prefill" | "decode", "how": "kill" | "stop" | "exit" | "abort" }.
const path = require('node:path');

const dist = path.resolve(__dirname, '../../../dist');
const { ModelRegistry } = require(path.join(dist, 'index.js'));
const { LlamaForCausalLM } = require(path.join(dist, 'models/llama.js'));

const fault = JSON.parse(process.env.FAULT);
/** Forward passes: the first is the plan, the second the prompt. */
const PASS = { prefill: 2, decode: 6 };

function fail() {
  switch (fault.how) {
    case 'kill':
      return process.kill(process.pid, 'SIGKILL');
    case 'stop':
      return process.kill(process.pid, 'SIGSTOP');
    case 'exit':
      return process.exit(3);
    default:
      return process.abort();
  }
}

class FaultyLlama extends LlamaForCausalLM {
  constructor(vllmConfig, prefix) {
    super(vllmConfig, prefix);
    this.isFaulty = vllmConfig.parallel.tpRank === fault.rank;
    this.passes = 0;
  }

  loadWeights(weights) {
    if (this.isFaulty && fault.phase === 'start') fail();
    return super.loadWeights(weights);
  }

  forward(...args) {
    this.passes++;
    if (this.isFaulty && this.passes === PASS[fault.phase]) fail();
    return super.forward(...args);
  }
}

process.removeAllListeners('warning'); // that the model is replaced is the purpose
exports.register = () => ModelRegistry.registerModel('LlamaForCausalLM', FaultyLlama);
