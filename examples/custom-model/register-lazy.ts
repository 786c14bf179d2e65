/** The same by name: "module:Class". The model's module is not loaded until a checkpoint asks for that architecture. */
import * as path from 'node:path';
import { ModelRegistry } from 'kvasir';

ModelRegistry.registerModel('MyModelForCausalLM', `${path.join(__dirname, 'model.js')}:MyModelForCausalLM`);
