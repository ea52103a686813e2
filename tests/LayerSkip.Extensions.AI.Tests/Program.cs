using ChatClientTests;
using Expecto;
using Expecto.CSharp;
using LayerSkip.CSharp.Tests;
using Microsoft.FSharp.Core;

// Expecto's summary goes to the console in its own form; CI reads this plain line.
var (passed, failed, skipped) = (0, 0, 0);
var standard = Impl.TestPrinters.defaultPrinter;
var printer = new Impl.TestPrinters(
    standard.beforeRun,
    standard.beforeEach,
    standard.info,
    standard.passed,
    standard.ignored,
    standard.failed,
    standard.exn,
    FuncConvert.FromFunc((Impl.ExpectoConfig config, Impl.TestRunSummary summary) =>
    {
        (passed, failed, skipped) =
            (summary.passed.Length, summary.failed.Length + summary.errored.Length, summary.ignored.Length);
        return standard.summary.Invoke(config).Invoke(summary);
    }));

// Nothing outside the tests' own folders is written.
Environment.SetEnvironmentVariable(LayerSkip.PassCostsCache.variable, "off");
using var tiny = new Tiny();
var tests = Runner.TestList("chat client", [
    OptionTests.All,
    MessageTests.All,
    StreamTests.All,
    ToolTests.All,
    PipelineTests.All,
    ModelTests.All(tiny),
    ServiceTests.All(tiny)]);
Tests.CLIArguments[] settings =
[
    Tests.CLIArguments.NewPrinter(printer),
    Tests.CLIArguments.NewColours(0),
    Tests.CLIArguments.No_Spinner,
];
var code = Runner.RunTestsWithCLIArgs(settings, args, tests);
Console.WriteLine($"\n{passed} passed, {failed} failed, {skipped} skipped");
return code;
