using System.Reflection;
using System.Reflection.Metadata;
using System.Reflection.Metadata.Ecma335;
using System.Reflection.PortableExecutable;
using System.Runtime.CompilerServices;
using System.Text.RegularExpressions;
using Expecto;
using Expecto.CSharp;
using static LayerSkip.CSharp.Tests.Support;

namespace LayerSkip.CSharp.Tests;

internal static class SurfaceTests
{
    private const BindingFlags Declared = BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.Instance
        | BindingFlags.Static | BindingFlags.DeclaredOnly;

    private static readonly Assembly Facade = typeof(LayerSkipModel).Assembly;

    public static Test All { get; } = Runner.TestList("surface", [
        Case("no signature has a type of F# or of the F# library", () =>
        {
            var foreign =
                from type in Facade.GetExportedTypes()
                from part in Signature(type).SelectMany(Parts).Distinct()
                where part.Assembly != Facade
                    && (Regex.IsMatch(part.Assembly.GetName().Name!, "^(FSharp.Core|LayerSkip.*|TorchSharp)$")
                        || Regex.IsMatch(part.FullName ?? "", "^System.(Value)?Tuple"))
                select $"{type.Name}: {part}";
            Same(foreign, [], "foreign types");
        }),
        Case("the test above sees into generic arguments, arrays and by-refs", () =>
        {
            var hidden = typeof(Task<>).MakeGenericType(typeof(KeyValuePair<,>)
                .MakeGenericType(typeof(int), typeof(LayerSkip.Strategy).MakeArrayType()));
            True(Parts(hidden.MakeByRefType()).Contains(typeof(LayerSkip.Strategy)), "found");
            True(Parts(typeof(List<(int, int)>)).Any(part => Regex.IsMatch(part.FullName ?? "", "^System.(Value)?Tuple")), "and tuples");
        }),
        Case("every public member is named by a test", () =>
        {
            var named = Named(typeof(SurfaceTests).Module);
            bool IsNamed(MethodBase? method) => method is not null && named.Contains((method.Module, method.MetadataToken));
            bool IsOwn(MemberInfo member) => !member.IsDefined(typeof(CompilerGeneratedAttribute));
            const BindingFlags Public = BindingFlags.Public | BindingFlags.Instance | BindingFlags.Static | BindingFlags.DeclaredOnly;
            var forgotten =
                from type in Facade.GetExportedTypes()
                where !type.IsEnum
                from name in Enumerable.Concat(
                    from property in type.GetProperties(Public)
                    where IsOwn(property) && !IsNamed(property.GetMethod) && !IsNamed(property.SetMethod)
                    select property.Name,
                    from method in type.GetMethods(Public)
                    where IsOwn(method) && !method.IsSpecialName && method.GetBaseDefinition().DeclaringType != typeof(object) && !IsNamed(method)
                    select $"{method}")
                select $"{type.Name}: {name}";
            Same(forgotten, [], "members");
            True(IsNamed(typeof(LayerSkipModel).GetMethod(nameof(LayerSkipModel.Encode))), "it sees those that are");
            True(!IsNamed(typeof(SurfaceTests).GetMethod("Texts", Declared)), "and not those that are not");
        }),
        Case("results and options can gain members: none has a constructor with parameters", () =>
        {
            var fixedOnes =
                from type in Facade.GetExportedTypes()
                where !type.IsEnum && (type.IsValueType || type.GetMethod("<Clone>$") is not null)
                from made in type.GetConstructors()
                where made.GetParameters().Length > 0
                select $"{type.Name}";
            Same(fixedOnes, [], "constructors");
        }),
        Case("a record with lists is read as text", () =>
        {
            static bool IsList(PropertyInfo property) =>
                property.PropertyType is { IsGenericType: true, IsInterface: true } && property.SetMethod is not null
                && property.PropertyType.GetGenericTypeDefinition() == typeof(IReadOnlyList<>);
            var types = Facade.GetExportedTypes().Where(type => type.GetMethod("<Clone>$") is not null && type.GetProperties().Any(IsList)).ToList();
            True(types.Count > 20, "records with lists");
            foreach (var type in types)
            {
                var made = RuntimeHelpers.GetUninitializedObject(type);
                foreach (var list in type.GetProperties().Where(IsList))
                {
                    list.SetValue(made, Array.CreateInstance(list.PropertyType.GetGenericArguments()[0], 2));
                }

                True(!$"{made}".Contains("System.", StringComparison.Ordinal), $"{made}");
            }

            GenerateOptions options = new() { StopTexts = ["a", "b"], LogitBias = new Dictionary<int, double> { [3] = 0.5 }, TopP = 0.25 };
            var told = $"{options}";
            foreach (var part in (string[])["GenerateOptions { ", "StopTexts = [\"a\", \"b\"]", "LogitBias = {3: 0.5}", "TopP = 0.25", "StopTokenIds = ,"])
            {
                True(told.Contains(part, StringComparison.Ordinal), told);
            }

            var many = $"{new GenerateResult { PromptIds = [.. Enumerable.Range(0, 100)], TokenIds = [7] }}";
            True(many.Contains("31, ... 100 in all], TokenIds = [7]", StringComparison.Ordinal), many);
            True($"{new TrainValidation { Step = 4, CrossEntropy = [1.5] }}".Contains("Step = 4", StringComparison.Ordinal), "base's too");
        }),
        Case("no text of the libraries names an option of the command", () =>
        {
            Assembly[] libraries =
            [
                .. Directory.GetFiles(Path.GetDirectoryName(Facade.Location)!, "LayerSkip*.dll").Order()
                    .Where(path => !Path.GetFileName(path).Contains(".Tests", StringComparison.Ordinal))
                    .Select(Assembly.LoadFrom),
            ];
            True(libraries.Length > 2, "the facade, the library and what it stands on");
            var named =
                from library in libraries
                from text in Texts(library)
                where Regex.IsMatch(text, @"(?<![\w-])--[a-z]")
                select text;
            Same(named, [], "texts");
            True(libraries.SelectMany(Texts).Any(text => text.Contains("give stop ids", StringComparison.Ordinal)), "its texts are seen");
        }),
        Case("the defaults are the command line's", () =>
        {
            var options = new GenerateOptions();
            Equal(options.MaxNewTokens, 128, "max-new-tokens");
            Equal(options.Strategy, Strategy.Auto, "strategy");
            Equal(options.Temperature, 0.0, "temperature");
            Equal((options.TopK, options.TopP, options.MinP), (0, 1.0, 0.0), "top-k, top-p and min-p");
            Equal((options.RepetitionPenalty, options.PresencePenalty, options.FrequencyPenalty), (1.0, 0.0, 0.0), "penalties");
            Equal((options.LogitBias.Count, options.LogProbs), (0, null), "no bias, no log-probabilities");
            Equal((options.Seed, options.ShowSpecial), (0, false), "seed and special tokens");
            var lens = new LensOptions();
            Equal((lens.TopK, lens.Layers, lens.Logits), (5, null, false), "a lens's");
        }),
    ]);

    /// <summary>The methods that a module's code may call, by their module and token.</summary>
    private static HashSet<(Module, int)> Named(Module module)
    {
        using PEReader file = new(File.OpenRead(module.FullyQualifiedName));
        HashSet<(Module, int)> named = [];
        foreach (var reference in file.GetMetadataReader().MemberReferences)
        {
            try
            {
                if (module.ResolveMember(MetadataTokens.GetToken(reference)) is MethodBase method)
                {
                    named.Add((method.Module, method.MetadataToken));
                }
            }
            catch (ArgumentException)
            {
                // Of a type that is generic where it is named: none of ours.
            }
        }

        return named;
    }

    /// <summary>The literals of an assembly's code.</summary>
    private static List<string> Texts(Assembly assembly)
    {
        using PEReader file = new(File.OpenRead(assembly.Location));
        var reader = file.GetMetadataReader();
        List<string> texts = [];
        for (var at = MetadataTokens.UserStringHandle(1); !at.IsNil; at = reader.GetNextHandle(at))
        {
            texts.Add(reader.GetUserString(at));
        }

        return texts;
    }

    private static IEnumerable<Type> Signature(Type type) =>
        type.GetInterfaces()
            .Concat(type.BaseType is { } parent ? [parent] : [])
            .Concat(type.GetMembers(Declared).SelectMany(OfMember));

    private static IEnumerable<Type> OfMember(MemberInfo member) =>
        member switch
        {
            MethodBase method when method.IsPublic || method.IsFamily || method.IsFamilyOrAssembly =>
                method.GetParameters().Select(parameter => parameter.ParameterType)
                    .Concat(method is MethodInfo { ReturnType: var returned } ? [returned] : [])
                    .Concat(method.IsGenericMethod
                        ? method.GetGenericArguments().SelectMany(argument => argument.GetGenericParameterConstraints())
                        : []),
            FieldInfo field when field.IsPublic || field.IsFamily || field.IsFamilyOrAssembly => [field.FieldType],
            _ => [],
        };

    /// <summary>A type and all that it is made of.</summary>
    private static IEnumerable<Type> Parts(Type type) =>
        [
            type,
            .. type.HasElementType ? Parts(type.GetElementType()!) : [],
            .. type.GetGenericArguments().SelectMany(Parts),
        ];
}
