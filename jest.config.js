// Unit tests import `lib/` directly (transpiled by swc); integration tests import `kvasir`, which is the built package.
module.exports = {
  testEnvironment: 'node',
  roots: ['<rootDir>/test'],
  testMatch: ['**/*.test.ts'],
  transform: { '^.+\\.ts$': ['@swc/jest', { jsc: { target: 'es2022', parser: { syntax: 'typescript' } }, module: { type: 'commonjs' } }] },
  moduleNameMapper: { '^kvasir$': '<rootDir>/dist/index.js' },
  testTimeout: 60000,
};
