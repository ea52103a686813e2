using Expecto;
using Expecto.CSharp;
using Microsoft.FSharp.Core;

namespace LayerSkip.CSharp.Tests;

/// <summary>A program of tests.</summary>
internal static class TestRun
{
    /// <summary>Runs the tests by a command's words; the exit code.</summary>
    public static int Run(string[] args, string name, Func<Tiny, Test[]> tests)
    {
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
        Expecto.Tests.CLIArguments[] settings =
        [
            Expecto.Tests.CLIArguments.NewPrinter(printer),
            Expecto.Tests.CLIArguments.NewColours(0),
            Expecto.Tests.CLIArguments.No_Spinner,
        ];
        var code = Runner.RunTestsWithCLIArgs(settings, args, Runner.TestList(name, tests(tiny)));
        Console.WriteLine($"\n{passed} passed, {failed} failed, {skipped} skipped");
        return code;
    }
}
