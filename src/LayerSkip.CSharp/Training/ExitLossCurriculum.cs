using Microsoft.FSharp.Collections;
using Microsoft.FSharp.Core;

namespace LayerSkip.CSharp;

/// <summary>
/// The layers whose outputs learn at a step, and how much each of them weighs in the loss (LayerSkip, section 4.1.2). The last layer learns at every
/// step, whatever else does. <c>ExitLossCurriculum.Rotational(8).Scaled(0.2)</c>.
/// </summary>
public sealed record ExitLossCurriculum
{
    private const double UsualScale = 0.2;
    private readonly Func<int, int, Curriculum> curriculum;

    private ExitLossCurriculum(Func<double, ExitRule>? rule, Func<int, int, Curriculum> curriculum, double scale = UsualScale)
    {
        NamedRule = rule;
        this.curriculum = curriculum;
        Scale = scale;
    }

    /// <summary>No early layer: plain training.</summary>
    public static ExitLossCurriculum LastOnly { get; } = new(_ => ExitRule.LastOnly, (_, _) => CurriculumModule.lastOnly, 0);

    /// <summary>Every layer at every step.</summary>
    public static ExitLossCurriculum Always { get; } = new(ExitRule.NewAll, (_, _) => CurriculumModule.all);

    /// <summary>From the last layer down, one more as training goes on, all of them at half of the steps: the paper's C_grad.</summary>
    public static ExitLossCurriculum Gradual { get; } = new(ExitRule.NewGradual, CurriculumModule.gradual, 1);

    /// <summary>e_scale: how much early layers weigh, 0 to 1.</summary>
    public double Scale { get; private init; }

    private Func<double, ExitRule>? NamedRule { get; init; }

    private Func<int, int, double>? Weights { get; init; }

    /// <summary>Every so many-th layer, one layer further each step: the paper's C_rot,R.</summary>
    public static ExitLossCurriculum Rotational(int every) =>
        new(scale => ExitRule.NewRotational(every, scale), (_, _) => CurriculumModule.rotational(Math.Max(1, every)));

    /// <summary>
    /// Chosen exits, each with its own weight beside the last layer's 1, dealt out in turn to so many groups, which take turns: beyond the
    /// paper. An exit of E is what the first E layers make.
    /// </summary>
    public static ExitLossCurriculum Emphasis(IReadOnlyDictionary<int, double> weights, int groups = 1)
    {
        ArgumentNullException.ThrowIfNull(weights);
        var exits = ListModule.OfSeq(weights.OrderBy(exit => exit.Key).Select(exit => Tuple.Create(exit.Key, exit.Value)));
        var layers = ListModule.OfSeq(weights.Keys.Order().Select(exit => exit - 1));
        return new(
            _ => ExitRule.NewEmphasis(exits, groups), (_, _) => CurriculumModule.grouped(Math.Max(1, groups), layers), 1);
    }

    /// <summary>A function of the step, from 1: the layers that learn at it, from 1.</summary>
    public static ExitLossCurriculum From(Func<int, IReadOnlyList<int>> layersAtStep)
    {
        ArgumentNullException.ThrowIfNull(layersAtStep);
        Curriculum Made(int steps) =>
            new(
                FuncConvert.FromFunc<int, int, bool>((step, layer) => layersAtStep(step + 1).Contains(layer + 1)),
                Math.Max(1, steps),
                true);
        return new(null, (_, steps) => Made(steps));
    }

    /// <summary>The same layers, early ones weighed by another e_scale (LayerSkip, equation 7), 0 to 1.</summary>
    public ExitLossCurriculum Scaled(double scale) => this with { Scale = scale };

    /// <summary>
    /// The same layers, each weighed by a function of the layer, from 1, and of how many there are, in place of the paper's. Weights are 0 or
    /// more; those of the layers that learn at a step are its shares of the loss.
    /// </summary>
    public ExitLossCurriculum WeighedBy(Func<int, int, double> weight)
    {
        ArgumentNullException.ThrowIfNull(weight);
        return this with { NamedRule = null, Weights = weight };
    }

    /// <summary>Each layer's share of the loss at a step, the first layer's first: 1 together.</summary>
    /// <param name="layerCount">The model's layers.</param>
    /// <param name="stepCount">The steps of the run.</param>
    /// <param name="step">The step, 1 to <paramref name="stepCount"/>.</param>
    /// <exception cref="LayerSkipException">The curriculum fits no model of so many layers.</exception>
    public IReadOnlyList<double> LayerShares(int layerCount, int stepCount, int step)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(step, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(step, stepCount);
        return Array.AsReadOnly(Shares(layerCount, stepCount).OrThrow().Invoke(step - 1));
    }

    /// <summary>The library's rule; null where a function of the caller's is in it.</summary>
    internal ExitRule? Rule => NamedRule?.Invoke(Scale);

    /// <summary>The shares of a run by step, from 0. An error: a step without weight on any layer, a weight below 0, what no rule can be.</summary>
    internal FSharpResult<FSharpFunc<int, double[]>, FSharpList<LayerSkipError>> Shares(int layers, int steps)
    {
        if (Rule is { } rule)
        {
            Recipe named = new(0, DropoutShape.Constant, DropoutShape.Constant, rule, new(1, 0));
            var parts = RecipeModule.tryBuild(layers, steps, 0, named);
            return ResultModule.Map(FuncConvert.FromFunc<RecipeParts, FSharpFunc<int, double[]>>(built => built.Shares), parts);
        }

        var scale = Weights is { } weight
            ? FuncConvert.FromFunc<bool[], double[]>(
                enabled => [.. enabled.Select((on, layer) => on ? weight(layer + 1, layers) : 0)])
            : FuncConvert.FromFunc<bool[], double[]>(enabled => ExitScaleModule.paper(Scale, enabled));
        return ExitSharesModule.tryCreate(layers, curriculum(layers, steps), scale);
    }
}
