'use strict';
// Makes a checkpoint that only the model of this folder can load: the example model's files, with another architecture in config.json.
// node examples/custom-model/checkpoint.js

const fs = require('node:fs');
const path = require('node:path');

const source = path.join(__dirname, '..', 'models', 'kvasir-tales-5m');
const target = path.join(__dirname, 'dist', 'checkpoint');

fs.cpSync(source, target, { recursive: true });
const file = path.join(target, 'config.json');
const config = JSON.parse(fs.readFileSync(file, 'utf8'));
config.architectures = ['MyModelForCausalLM'];
fs.writeFileSync(file, `${JSON.stringify(config, null, 2)}\n`);
console.log(`wrote ${path.relative(process.cwd(), target)}`);
