using Expecto;
using Expecto.CSharp;
using static LayerSkip.CSharp.Tests.Support;

namespace LayerSkip.CSharp.Tests;

internal static class ScheduleTests
{
    public static Test All { get; } = Runner.TestList("schedules", [
        Case("dropout grows with depth and with time as the paper has it", () =>
        {
            double[] Depths(DropoutSchedule dropout) => [.. Enumerable.Range(1, 4).Select(layer => Round(dropout.Rate(layer, 4, 10, 10)))];
            double[] Times(DropoutSchedule dropout) => [.. Enumerable.Range(1, 4).Select(step => Round(dropout.Rate(4, 4, step, 4)))];
            Same(Depths(DropoutSchedule.None), [0, 0, 0, 0], "none");
            Same(Depths(DropoutSchedule.Constant(0.3)), [0.3, 0.3, 0.3, 0.3], "constant");
            Same(Depths(DropoutSchedule.Exponential(1)), [0, 0.2599, 0.5874, 1], "2^x - 1");
            Same(Depths(DropoutSchedule.Linear(0.3)), [0, 0.1, 0.2, 0.3], "a line");
            Same(Depths(DropoutSchedule.From((layer, layers) => layer / (2.0 * layers))), [0.125, 0.25, 0.375, 0.5], "a function");
            Same(Times(DropoutSchedule.Exponential(1).Over(TimeSchedule.Exponential)), [0, 0.2599, 0.5874, 1], "exponential in time");
            Same(Times(DropoutSchedule.Constant(0.3).Over(TimeSchedule.Linear)), [0, 0.1, 0.2, 0.3], "linear in time");
            Same(Times(DropoutSchedule.Constant(0.3).Over(TimeSchedule.Constant.StartingAt(3))), [0, 0, 0.3, 0.3], "from a step on");
            Same(Times(DropoutSchedule.Constant(1).Over(TimeSchedule.From((step, steps) => step > 2 ? 1 : 0))), [0, 0, 1, 1], "a function of time");
            Same(Depths(DropoutSchedule.From((_, _) => 7)), [1, 1, 1, 1], "never more than 1");
            Equal(TimeSchedule.Linear.At(2, 3), 0.5, "halfway");
            Throws<InvalidOperationException>(() => DropoutSchedule.From((_, _) => double.NaN).Rate(1, 2, 1, 2));
            Throws<ArgumentNullException>(() => DropoutSchedule.From(null!));
            Throws<ArgumentNullException>(() => TimeSchedule.From(null!));
            Throws<ArgumentNullException>(() => DropoutSchedule.None.Over(null!));
        }),
        Case("a curriculum says which layers learn, and how much", () =>
        {
            double[] Shares(ExitLossCurriculum curriculum, int step) => [.. curriculum.LayerShares(4, 8, step).Select(Round)];
            Same(Shares(ExitLossCurriculum.LastOnly, 1), [0, 0, 0, 1], "the last alone");
            // The paper's weights of four layers with e_scale 0.1: 0, 0.1, 0.3, 3.3.
            Same(Shares(ExitLossCurriculum.Always.Scaled(0.1), 1), [0, Round(0.1 / 3.7), Round(0.3 / 3.7), Round(3.3 / 3.7)], "every layer");
            Equal(ExitLossCurriculum.Always.Scaled(0.1).Scale, 0.1, "its scale");
            var turns = ExitLossCurriculum.Rotational(3).WeighedBy((_, _) => 1);
            Same(Shares(turns, 1), [1.0 / 2, 0, 0, 1.0 / 2], "in turn: the first, and the last, whose turn it is as well");
            Same(Shares(turns, 2), [0, 0.5, 0, 0.5], "the second");
            Same(Shares(turns, 3), [0, 0, 0.5, 0.5], "the third");
            var down = ExitLossCurriculum.Gradual.WeighedBy((_, _) => 1);
            Same(Shares(down, 1), [0, 0, 0, 1], "at first the last");
            Same(Shares(down, 8), [0.25, 0.25, 0.25, 0.25], "in the end all");
            var own = ExitLossCurriculum.From(step => step % 2 == 0 ? [1, 2] : []).WeighedBy((layer, layers) => layer == layers ? 2 : 1);
            Same(Shares(own, 1), [0, 0, 0, 1], "odd steps");
            Same(Shares(own, 2), [0.25, 0.25, 0, 0.5], "even steps");
            var chosen = ExitLossCurriculum.Emphasis(new Dictionary<int, double> { [1] = 0.5, [2] = 0.5 }, groups: 2);
            Same(Shares(chosen, 1), [Round(0.5 / 1.5), 0, 0, Round(1 / 1.5)], "the first group");
            Same(Shares(chosen, 2), [0, Round(0.5 / 1.5), 0, Round(1 / 1.5)], "the second");
        }),
        Case("a curriculum that no loss can have is refused", () =>
        {
            foreach (var bad in (ExitLossCurriculum[])[
                ExitLossCurriculum.Always.Scaled(2),
                ExitLossCurriculum.Rotational(0),
                ExitLossCurriculum.Always.WeighedBy((_, _) => 0),
                ExitLossCurriculum.Always.WeighedBy((layer, _) => -layer),
                ExitLossCurriculum.Emphasis(new Dictionary<int, double> { [9] = 1 })])
            {
                Equal(Throws<LayerSkipException>(() => bad.LayerShares(4, 8, 1)).OptionName, "Curriculum", "whose fault it is");
            }

            Throws<ArgumentNullException>(() => ExitLossCurriculum.From(null!));
            Throws<ArgumentNullException>(() => ExitLossCurriculum.Always.WeighedBy(null!));
            Throws<ArgumentNullException>(() => ExitLossCurriculum.Emphasis(null!));
            Throws<ArgumentOutOfRangeException>(() => ExitLossCurriculum.Always.LayerShares(4, 8, 0));
        }),
    ]);

    private static double Round(double value) => Math.Round(value, 4);
}
