using Microsoft.FSharp.Collections;
using Microsoft.FSharp.Core;

namespace LayerSkip.CSharp;

/// <summary>Drafters, policies and stop rules that are a caller's functions, as the library has them.</summary>
internal static class CustomDrafting
{
    public static LayerSkip.Drafter Drafter(Func<DraftContext, IReadOnlyList<int>> propose) => new FunctionDrafter(propose);

    public static LayerSkip.StopRule StopRule(Func<IReadOnlyList<DraftedToken>, bool> isEnough, bool readsEntropy) =>
        new FunctionStopRule(isEnough, readsEntropy ? DraftReading.Entropy : DraftReading.Confidence);

    public static LayerSkip.DraftPolicy Policy<TState>(
        int layers, TState start, Func<TState, DraftPlan> plan, Func<TState, DraftRound, TState> learn) =>
        DraftPolicyModule.folded(
            "function",
            FuncConvert.FromFunc<TState, LayerSkip.DraftPlan>(state => Plan(layers, plan(state))),
            FuncConvert.FromFunc<RoundSeen, TState, TState>((seen, state) => seen.IsPrompt
                ? state
                : learn(
                    state,
                    new()
                    {
                        Drafted = seen.Round.Drafted,
                        Accepted = seen.Round.Accepted,
                        Elapsed = TimeSpan.FromMilliseconds(seen.Ms),
                    })),
            start);

    /// <summary>A draft as a caller's function sees it.</summary>
    public static DraftedToken Shown(Draft draft) =>
        new() { Id = draft.Token, Probability = Value(draft.Confidence), Entropy = Value(draft.Entropy) };

    private static double? Value(FSharpValueOption<double> number) => number.IsSome ? number.Value : null;

    private static LayerSkip.DraftPlan Plan(int layers, DraftPlan plan) =>
        new(
            ExitLayer.TryCreate(layers, plan.ExitLayer).OrThrow(),
            Math.Clamp(plan.DraftLength, 0, LayerSkip.Strategy.LongestDraft),
            plan.StopBelow);

    private sealed class FunctionDrafter(Func<DraftContext, IReadOnlyList<int>> propose) : LayerSkip.Drafter
    {
        public string Name => "function";

        public FSharpOption<ExitLayer>? Exit => null;

        public Watch Watch => WatchModule.nothing;

        public (Draft[], Reading, LayerSkip.Drafter) Draft(DraftRequest request, Reading reading)
        {
            var proposed = propose(new() { TokenIds = request.Text, MaxTokens = request.Ahead })
                ?? throw new InvalidOperationException("the drafter returned null in place of tokens");
            Draft[] drafts = [.. proposed.Take(request.Ahead).Select(DraftModule.certain)];
            return (drafts, reading, this);
        }

        public LayerSkip.Drafter Learn(RoundSeen seen) => this;
    }

    private sealed class FunctionStopRule(Func<IReadOnlyList<DraftedToken>, bool> isEnough, DraftReading reads) : LayerSkip.StopRule
    {
        public string Name => "function";

        public DraftReading Reads => reads;

        public bool IsEnough(FSharpList<Draft> made) => isEnough([.. made.Reverse().Select(Shown)]);

        public LayerSkip.StopRule Learn(RoundSeen seen) => this;
    }
}
