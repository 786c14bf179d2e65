/** Makes the model known: loading this module is all that a program, `--plugin` or `workerImports` has to do. */
import { ModelRegistry } from 'kvasir';
import { MyModelForCausalLM } from './model';

// The first argument is what stands under "architectures" in the checkpoint's config.json.
ModelRegistry.registerModel('MyModelForCausalLM', MyModelForCausalLM);
