namespace LayerSkip.CSharp;

/// <summary>What changes in a run that goes on; null is as the run has it.</summary>
public sealed record ResumeOptions
{
    /// <summary>The steps of the whole run.</summary>
    public int? Steps { get; init; }

    /// <summary>The highest learning rate.</summary>
    public double? LearningRate { get; init; }

    /// <summary>Steps from one checkpoint to the next.</summary>
    public int? SaveEvery { get; init; }

    /// <summary>Validates every so many steps, and after the last; 0: never.</summary>
    public int? ValidateEvery { get; init; }

    /// <summary>The run's layer dropout, where it began with a function: no checkpoint holds one.</summary>
    public DropoutSchedule? Dropout { get; init; }

    /// <summary>The run's curriculum, where it began with a function: no checkpoint holds one.</summary>
    public ExitLossCurriculum? Curriculum { get; init; }

    /// <summary>What computes.</summary>
    public Device Device { get; init; }

    /// <summary>Threads for the products of the whole process; null leaves them as they are.</summary>
    public int? Threads { get; init; }
}
