'use strict';
// Writes a Llama checkpoint of random bfloat16 weights as safetensors shards, to measure loading with:
//   node scripts/make-checkpoint.js examples/configs/llama-3.2-1b.json FOLDER [--shard-gb 5]
// The values repeat after 64 MiB, so that writing is as fast as the disk. There is no tokenizer: use it with token ids.

const fs = require('node:fs');
const path = require('node:path');
const { parseArgs } = require('node:util');
const { UserError, readJson, runMain } = require('./common.js');

const BLOCK_BYTES = 64 << 20;

/** Names and shapes as Hugging Face transformers stores them. */
function llamaTensors(config) {
  const { hidden_size: hidden, intermediate_size: inner, vocab_size: vocab, head_dim: headDim } = config;
  const [q, kv] = [config.num_attention_heads * headDim, config.num_key_value_heads * headDim];
  const tensors = [['model.embed_tokens.weight', [vocab, hidden]]];
  for (let i = 0; i < config.num_hidden_layers; i += 1) {
    const prefix = `model.layers.${i}`;
    tensors.push(
      [`${prefix}.input_layernorm.weight`, [hidden]], [`${prefix}.post_attention_layernorm.weight`, [hidden]],
      [`${prefix}.self_attn.q_proj.weight`, [q, hidden]], [`${prefix}.self_attn.k_proj.weight`, [kv, hidden]],
      [`${prefix}.self_attn.v_proj.weight`, [kv, hidden]], [`${prefix}.self_attn.o_proj.weight`, [hidden, q]],
      [`${prefix}.mlp.gate_proj.weight`, [inner, hidden]], [`${prefix}.mlp.up_proj.weight`, [inner, hidden]], [`${prefix}.mlp.down_proj.weight`, [hidden, inner]],
    );
  }
  tensors.push(['model.norm.weight', [hidden]]);
  if (!config.tie_word_embeddings) tensors.push(['lm_head.weight', [vocab, hidden]]);
  return tensors.map(([name, shape]) => ({ name, shape, bytes: 2 * shape.reduce((a, b) => a * b, 1) }));
}

/** bfloat16 values of both signs with magnitudes from 2^-9 to 2^-5: the exponent is drawn from four, sign and mantissa from all. */
function randomBlock() {
  const values = new Uint16Array(BLOCK_BYTES / 2);
  let state = 0x9e3779b9;
  for (let i = 0; i < values.length; i += 1) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0; // Knuth, TAOCP 2, 3.3.4
    values[i] = ((state >>> 16) & 0x807f) | ((118 + ((state >>> 14) & 3)) << 7);
  }
  return Buffer.from(values.buffer);
}

function splitIntoShards(tensors, limit) {
  const shards = [[]];
  let size = 0;
  for (const tensor of tensors) {
    if (size + tensor.bytes > limit && size > 0) {
      shards.push([]);
      size = 0;
    }
    shards.at(-1).push(tensor);
    size += tensor.bytes;
  }
  return shards;
}

function writeShard(file, tensors, block) {
  const header = { __metadata__: { format: 'pt' } };
  let end = 0;
  for (const { name, shape, bytes } of tensors) header[name] = { dtype: 'BF16', shape, data_offsets: [end, (end += bytes)] };
  let text = JSON.stringify(header);
  text += ' '.repeat((8 - (text.length % 8)) % 8); // the data begins aligned
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  const fd = fs.openSync(file, 'w');
  try {
    fs.writeSync(fd, length);
    fs.writeSync(fd, text);
    for (let at = 0; at < end; ) at += fs.writeSync(fd, block, 0, Math.min(block.length, end - at));
  } finally {
    fs.closeSync(fd);
  }
}

async function main() {
  const { values, positionals } = parseArgs({ allowPositionals: true, options: { 'shard-gb': { type: 'string', default: '5' } } });
  const [configFile, dir] = positionals;
  const limit = Number(values['shard-gb']) * 1e9;
  if (positionals.length !== 2 || !(limit > 0)) throw new UserError('usage: make-checkpoint.js CONFIG.json FOLDER [--shard-gb 5]');
  const config = readJson(configFile);
  if (config?.architectures?.[0] !== 'LlamaForCausalLM') throw new UserError(`${configFile} must be the config.json of a LlamaForCausalLM.`);
  fs.mkdirSync(dir, { recursive: true });
  const shards = splitIntoShards(llamaTensors(config), limit);
  const block = randomBlock();
  const weightMap = {};
  let total = 0;
  shards.forEach((tensors, i) => {
    const number = (n) => String(n).padStart(5, '0');
    const name = shards.length === 1 ? 'model.safetensors' : `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`;
    writeShard(path.join(dir, name), tensors, block);
    for (const tensor of tensors) {
      weightMap[tensor.name] = name;
      total += tensor.bytes;
    }
  });
  if (shards.length > 1) fs.writeFileSync(path.join(dir, 'model.safetensors.index.json'), JSON.stringify({ metadata: { total_size: total }, weight_map: weightMap }));
  fs.copyFileSync(configFile, path.join(dir, 'config.json'));
  process.stdout.write(`${(total / 1e9).toFixed(2)} GB of weights in ${shards.length} file(s) in ${dir}\n`);
}

runMain(main);
