namespace LayerSkip.CSharp;

/// <summary>
/// Which share of samples skips which layer at which step of training: p(t, l) = S(t) D(l) p_max (LayerSkip, equation 2). A schedule over layers
/// times one over steps: <c>DropoutSchedule.Exponential(0.2).Over(TimeSchedule.Linear)</c>.
/// </summary>
public sealed record DropoutSchedule
{
    private readonly Func<int, int, double> depth;

    private DropoutSchedule(double peak, DropoutShape? shape, Func<int, int, double> depth)
    {
        Peak = peak;
        Shape = shape;
        this.depth = depth;
    }

    /// <summary>No layer is skipped.</summary>
    public static DropoutSchedule None { get; } = Constant(0);

    internal double Peak { get; }

    /// <summary>Null where it is a function of the caller's, or one that the library has no name for.</summary>
    internal DropoutShape? Shape { get; }

    internal TimeSchedule Time { get; private init; } = TimeSchedule.Constant;

    /// <summary>Every layer as often.</summary>
    /// <param name="peak">The share of samples, 0 to 1.</param>
    public static DropoutSchedule Constant(double peak) => new(peak, DropoutShape.Constant, (_, _) => 1);

    /// <summary>From none at the first layer to the peak at the last, as 2^x - 1: the paper's (equation 3).</summary>
    /// <param name="peak">The share of samples that skip the last layer, 0 to 1.</param>
    public static DropoutSchedule Exponential(double peak) =>
        new(peak, DropoutShape.Exponential, (layer, layers) => ScheduleModule.exponential(layers).Invoke(layer - 1));

    /// <summary>From none at the first layer to the peak at the last, in a line: beyond the paper, as torchtune has it.</summary>
    /// <param name="peak">The share of samples that skip the last layer, 0 to 1.</param>
    public static DropoutSchedule Linear(double peak) =>
        new(peak, null, (layer, layers) => ScheduleModule.linear(layers).Invoke(layer - 1));

    /// <summary>A function of the layer, from 1, and of how many there are: the share of samples that skip it, 0 to 1.</summary>
    public static DropoutSchedule From(Func<int, int, double> rate)
    {
        ArgumentNullException.ThrowIfNull(rate);
        return new(1, null, rate);
    }

    /// <summary>The same layers, as often as <paramref name="time"/> says of a step.</summary>
    public DropoutSchedule Over(TimeSchedule time)
    {
        ArgumentNullException.ThrowIfNull(time);
        return this with { Time = time };
    }

    /// <summary>The share of samples that skip a layer at a step, 0 to 1.</summary>
    /// <param name="layer">The layer, 1 to <paramref name="layerCount"/>.</param>
    /// <param name="layerCount">The model's layers.</param>
    /// <param name="step">The step, 1 to <paramref name="stepCount"/>.</param>
    /// <param name="stepCount">The steps of the run.</param>
    /// <exception cref="InvalidOperationException">A function of the caller's gives what is no number.</exception>
    public double Rate(int layer, int layerCount, int step, int stepCount)
    {
        var rate = Peak * depth(layer, layerCount) * Time.At(step, stepCount);
        return double.IsNaN(rate)
            ? throw new InvalidOperationException($"the dropout of layer {layer} at step {step} is no number")
            : Math.Clamp(rate, 0, 1);
    }
}

/// <summary>How something grows over the steps of training.</summary>
public sealed record TimeSchedule
{
    private readonly Func<int, int, double> at;

    private TimeSchedule(DropoutShape? shape, Func<int, int, double> at)
    {
        Shape = shape;
        this.at = at;
    }

    /// <summary>The same at every step.</summary>
    public static TimeSchedule Constant { get; } = new(DropoutShape.Constant, (_, _) => 1);

    /// <summary>From 0 at the first step to 1 at the last, as 2^x - 1: the paper's for a training from scratch (equation 4).</summary>
    public static TimeSchedule Exponential { get; } =
        new(DropoutShape.Exponential, (step, steps) => ScheduleModule.exponential(steps).Invoke(step - 1));

    /// <summary>From 0 at the first step to 1 at the last, in a line.</summary>
    public static TimeSchedule Linear { get; } = new(null, (step, steps) => ScheduleModule.linear(steps).Invoke(step - 1));

    /// <summary>Null where it is a function of the caller's, or one that the library has no name for.</summary>
    internal DropoutShape? Shape { get; }

    /// <summary>A function of the step, from 1, and of how many there are; 0 or more.</summary>
    public static TimeSchedule From(Func<int, int, double> at)
    {
        ArgumentNullException.ThrowIfNull(at);
        return new(null, at);
    }

    /// <summary>0 before a step, counted from 1, and this from then on.</summary>
    public TimeSchedule StartingAt(int first) => new(null, (step, steps) => step < first ? 0 : at(step, steps));

    /// <summary>Its value at a step, counted from 1.</summary>
    public double At(int step, int stepCount) => at(step, stepCount);
}
