# A thin adapter: node-gyp, npm rebuild and electron-rebuild end in the CMake build of native/CMakeLists.txt, the only list of sources.
{
  'targets': [
    {
      'target_name': 'kvasir',
      'type': 'none',
      'actions': [
        {
          'action_name': 'cmake_build',
          'inputs': ['native/CMakeLists.txt'],
          # Never written: the script itself knows what is up to date, so it always runs.
          'outputs': ['<(INTERMEDIATE_DIR)/always'],
          'action': ['node', 'scripts/build-native.js'],
        },
      ],
    },
  ],
}
