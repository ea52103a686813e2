using ChatClientTests;
using LayerSkip.CSharp.Tests;

return TestRun.Run(args, "chat client", tiny => [
    OptionTests.All,
    MessageTests.All,
    StreamTests.All,
    ToolTests.All,
    PipelineTests.All,
    ModelTests.All(tiny),
    ServiceTests.All(tiny)]);
