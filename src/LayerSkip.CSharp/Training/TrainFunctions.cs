using Microsoft.FSharp.Core;

namespace LayerSkip.CSharp;

/// <summary>
/// Schedules and curricula that are a caller's functions: no checkpoint can hold them, so the run's folder says that there are some, and whoever
/// resumes gives them again.
/// </summary>
internal static class TrainFunctions
{
    public static bool IsFunction(DropoutSchedule? dropout) =>
        dropout is not null && (dropout.Shape is null || dropout.Time.Shape is null);

    public static bool IsFunction(ExitLossCurriculum? curriculum) => curriculum is { Rule: null };

    /// <summary>The same session, in which the functions decide. An error: shares that no loss can have.</summary>
    public static TrainingSession Apply(DropoutSchedule? dropout, ExitLossCurriculum? curriculum, TrainingSession session)
    {
        if (!IsFunction(dropout) && !IsFunction(curriculum))
        {
            return session;
        }

        var (plan, layers) = (session.Plan, session.Model.Config.Layers);
        var (steps, parts) = (plan.Options.Steps, plan.Parts);
        var shares = IsFunction(curriculum) ? curriculum!.Shares(layers, steps).OrThrow() : parts.Shares;
        var drops = IsFunction(dropout)
            ? Translate.Some(new LayerDropout(
                FuncConvert.FromFunc<int, int, double>((step, layer) => dropout!.Rate(layer + 1, layers, step + 1, steps)),
                plan.Options.Seed))
            : parts.Dropout;
        return new(
            output: session.Output,
            model: session.Model,
            trainee: session.Trainee,
            plan: new(plan.Options, new(shares, drops, parts.Targets), plan.Ranks, plan.Rope, plan.Read),
            data: session.Data,
            coverage: session.Coverage,
            conversations: session.Conversations,
            validation: session.Validation,
            graded: session.Graded,
            hasNewOptions: session.HasNewOptions,
            remarks: session.Remarks,
            claim: session.Claim);
    }

    /// <summary>Says in a run's folder which options are functions; nothing where none is.</summary>
    public static void Remember(string folder, DropoutSchedule? dropout, ExitLossCurriculum? curriculum)
    {
        string[] names =
        [
            .. IsFunction(dropout) ? [nameof(TrainOptions.Dropout)] : (string[])[],
            .. IsFunction(curriculum) ? [nameof(TrainOptions.Curriculum)] : (string[])[],
        ];
        if (names is not [])
        {
            File.WriteAllLines(Place(folder), names);
        }
    }

    /// <summary>Forgets it: the run is over.</summary>
    public static void Forget(string folder) => File.Delete(Place(folder));

    /// <summary>Refuses to go on without the functions that a run began with.</summary>
    public static void Require(string folder, DropoutSchedule? dropout, ExitLossCurriculum? curriculum)
    {
        string[] names = File.Exists(Place(folder)) ? File.ReadAllLines(Place(folder)) : [];
        foreach (var (name, isThere) in (ReadOnlySpan<(string, bool)>)[
            (nameof(TrainOptions.Dropout), IsFunction(dropout)),
            (nameof(TrainOptions.Curriculum), IsFunction(curriculum))])
        {
            if (names.Contains(name) && !isThere)
            {
                throw Translate.Exception(LayerSkipError.NewOutOfRange(
                    name, "missing", "given again: the run began with a function, which no checkpoint holds"));
            }
        }
    }

    private static string Place(string folder) => Path.Combine(folder, "functions.txt");
}
