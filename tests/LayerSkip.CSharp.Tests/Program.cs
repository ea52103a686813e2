using LayerSkip.CSharp.Tests;

return TestRun.Run(args, "csharp", tiny => [
    SurfaceTests.All,
    LoadTests.All(tiny),
    ArgumentTests.All(tiny),
    GenerateTests.All(tiny),
    StreamTests.All(tiny),
    LensTests.All(tiny),
    ErrorTests.All(tiny),
    LoadAsyncTests.All(tiny),
    DraftFunctionTests.All(tiny),
    AcceptanceTests.All(tiny),
    ScheduleTests.All,
    TrainTests.All(tiny),
    StudyTests.All(tiny),
    ReplayTests.All(tiny),
    CallersTests.All(tiny),
    RulesTests.All(tiny),
    FormatTests.All(tiny),
    ChatTests.All(tiny),
    HubTests.All(tiny),
    MockTests.All,
    ReferenceTests.All]);
